# One job per sweep: evaluations of one model and one group of methods, as many as the study lets share a process. Each
# is on all its benchmarks: start-up costs more than one of them. Where the study asks for it, other jobs have answered
# parts of the large ones before, and the sweep finds their answers.


for sweep in study.sweeps:
    first = "/".join(sweep.jobs[0].key)

    rule:
        name:
            f"evaluate_{sweep.name}"
        input:
            data=[*study.data_of(sweep.benchmarks), *records(study, sweep.model)],
            # A fresh clone has new times on the same weights: their content is a parameter instead.
            model=ancient(sweep.model.files),
            # So has a predictor that comes with it; others are a rule's to make.
            shipped=ancient(
                [path for job in sweep.jobs for path in job.predictor_files(True)]
            ),
            trained=[path for job in sweep.jobs for path in job.predictor_files(False)],
            parts=study.done(sweep),
        output:
            # The response logs stand beside these, undeclared, so that a killed job's answers outlive it: what of a
            # sweep need not be answered again is only scored again.
            results=[job.result for job in sweep.jobs],
            runs=[f"{job.stem}.run.json" for job in sweep.jobs],
            answers=[f"{job.stem}.answers.parquet" for job in sweep.jobs],
        log:
            f"results/{study.name}/logs/{first}.log",
            jobs=f"results/{study.name}/logs/{first}.jobs.json",
        benchmark:
            f"results/{study.name}/timings/{first}.tsv"
        # The longest first, so that no core waits for a last one; below a training's, whom more may wait for.
        priority: study.urgency(sweep)
        conda:
            "../../environment.yml"
        threads: study.typed.threads
        resources:
            **study.resources,
        params:
            jobs=study.evaluations(sweep),
            tasks=study.tasks_content,
            weights=sweep.model.content,
            predictors=[job.predictor_content for job in sweep.jobs],
            code=[study.code(job) for job in sweep.jobs],
        message:
            f"{sweep.model.name}: {', '.join(' '.join(job.key[1:]) for job in sweep.jobs)}"
            " ({threads} threads, {resources.gpu} GPU)"
        shell:
            "printf '%s\\n' {params.jobs:q} > {log.jobs:q}"
            " && python -m dyrate.cli evaluate --jobs {log.jobs:q} --threads {threads} > {log[0]:q} 2>&1"


if study.parts:

    rule evaluate_part:
        input:
            data=lambda w: study.data_of([study.parts[w.sweep, w.part].benchmark]),
            records=lambda w: records(study, study.parts[w.sweep, w.part].sweep.model),
            model=lambda w: ancient(study.parts[w.sweep, w.part].sweep.model.files),
            shipped=lambda w: ancient(
                study.parts[w.sweep, w.part].predictor_files(True)
            ),
            trained=lambda w: study.parts[w.sweep, w.part].predictor_files(False),
        output:
            touch(f"results/{study.name}/parts/{{sweep}}/{{part}}.done"),
        log:
            f"results/{study.name}/logs/parts/{{sweep}}/{{part}}.log",
            jobs=f"results/{study.name}/logs/parts/{{sweep}}/{{part}}.jobs.json",
        wildcard_constraints:
            sweep="[^/]+",
            part="[^/]+",
        priority: 0.5
        conda:
            "../../environment.yml"
        threads: study.typed.threads
        resources:
            **study.resources,
        params:
            jobs=lambda w: study.evaluations(
                study.parts[w.sweep, w.part].sweep,
                study.parts[w.sweep, w.part].benchmark,
            ),
            part=lambda w: study.parts[w.sweep, w.part].share,
            tasks=study.tasks_content,
            weights=lambda w: study.parts[w.sweep, w.part].sweep.model.content,
            predictors=lambda w: [
                job.predictor_content for job in study.parts[w.sweep, w.part].jobs
            ],
            code=lambda w: [
                study.code(job) for job in study.parts[w.sweep, w.part].jobs
            ],
        message:
            "Answers for {wildcards.sweep}: {wildcards.part} ({threads} threads, {resources.gpu} GPU)"
        shell:
            "printf '%s\\n' {params.jobs:q} > {log.jobs:q}"
            " && python -m dyrate.cli evaluate --jobs {log.jobs:q} --part {params.part} --threads {threads}"
            " > {log[0]:q} 2>&1"
