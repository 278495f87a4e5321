# Table III's times: one job per model, which takes all cores, so that nothing else of the study runs beside it; and
# one for its methods that wait for a training, which may fail.
import re

from dyrate.bench import study_jobs as timing

timed = timing.timed(study)
latencies = timing.documents(study)


if timed:

    rule latency:
        input:
            data=timing.data_files(study),
            fetched=lambda w: records(study, timed[w.model][0].model),
            # A fresh clone has new times on the same weights: their content is a parameter instead.
            model=lambda w: ancient(timed[w.model][0].model.files),
            shipped=lambda w: ancient(timing.predictor_files(timed[w.model], True)),
            trained=lambda w: timing.predictor_files(timed[w.model], False),
        output:
            f"results/{study.name}/latency/{{model}}.json",
        log:
            f"results/{study.name}/logs/{{model}}/latency.log",
        wildcard_constraints:
            model="|".join(map(re.escape, timed)),
        conda:
            "../../environment.yml"
        # `--unlock` and clusters know no number of cores; a cluster's job has as many as it was submitted with, whatever its
        # node has.
        threads: (not workflow.remote_exec and workflow.resource_settings.cores) or study.typed.threads
        resources:
            **study.resources,
        params:
            arguments=lambda w: timing.job(
                study, timed[w.model][0].model, timed[w.model]
            ).arguments(),
            threads=study.typed.threads,
            tasks=study.tasks_content,
            weights=lambda w: timed[w.model][0].model.content,
            predictors=lambda w: [job.predictor_content for job in timed[w.model]],
            code=lambda w: timing.code(timed[w.model]),
        message:
            "{wildcards.model}: how long its answers take (alone; {params.threads} threads, {resources.gpu} GPU)"
        shell:
            "python -m dyrate.cli bench {params.arguments:q} --threads {params.threads} > {log:q} 2>&1"
