import re

# One job per (model, method, decoding), on all benchmarks of the study: start-up costs more than a benchmark.


rule evaluate:
    input:
        data=study.data_files,
        # A fresh clone has new times on the same weights: their content is a parameter instead.
        model=lambda w: ancient(study.job(*w).model.files),
        baseline=lambda w: study.baseline(study.job(*w)) or [],
        # So has a predictor that comes with it; others are a rule's to make.
        shipped=lambda w: ancient(study.job(*w).predictor_files(shipped=True)),
        trained=lambda w: study.job(*w).predictor_files(shipped=False),
    output:
        # The response log stands beside these, undeclared, so that a killed job's answers outlive it.
        result=f"results/{study.name}/{{model}}/{{method}}/{{decoding}}.json",
        run=f"results/{study.name}/{{model}}/{{method}}/{{decoding}}.run.json",
        answers=f"results/{study.name}/{{model}}/{{method}}/{{decoding}}.answers.parquet",
    log:
        f"results/{study.name}/logs/{{model}}/{{method}}/{{decoding}}.log",
    benchmark:
        f"results/{study.name}/timings/{{model}}/{{method}}/{{decoding}}.tsv"
    wildcard_constraints:
        # Only the study's own: results of other producers may lie beside them.
        **{
            name: "|".join(map(re.escape, dict.fromkeys(parts)))
            for name, parts in zip(
                ("model", "method", "decoding"), zip(*(job.key for job in study.jobs))
            )
        },
    conda:
        "../../environment.yml"
    threads: study.config["threads"]
    resources:
        **{
            key: amount
            for key, amount in study.config["resources"].items()
            if key != "gpu"
        },
        gpu=lambda w: study.gpus,
    params:
        arguments=lambda w: study.arguments(study.job(*w)),
        tasks=study.tasks_content,
        weights=lambda w: study.job(*w).model.content,
        predictor=lambda w: study.job(*w).predictor_content,
        code=lambda w: study.code(study.job(*w)),
    message:
        "{wildcards.model}: {wildcards.method}, {wildcards.decoding} ({threads} threads, {resources.gpu} GPU)"
    shell:
        "python -m dyrate.cli evaluate {params.arguments:q} --threads {threads} > {log:q} 2>&1"
