# One job per (model, method, decoding), on all benchmarks of the study: start-up costs more than a benchmark.


def job_of(wildcards):
    return study.job(wildcards.model, wildcards.method, wildcards.decoding)


rule evaluate:
    input:
        data=study.data_files,
        # A fresh clone has new times on the same weights: their content is a parameter instead.
        model=lambda wildcards: ancient(job_of(wildcards).model.files),
        baseline=lambda wildcards: study.baseline(job_of(wildcards)) or [],
    output:
        # The response log stands beside these, undeclared, so that a killed job's answers outlive it.
        result=f"results/{study.name}/{{model}}/{{method}}/{{decoding}}.json",
        run=f"results/{study.name}/{{model}}/{{method}}/{{decoding}}.run.json",
        answers=f"results/{study.name}/{{model}}/{{method}}/{{decoding}}.answers.parquet",
    log:
        f"results/{study.name}/logs/{{model}}/{{method}}/{{decoding}}.log",
    benchmark:
        f"results/{study.name}/timings/{{model}}/{{method}}/{{decoding}}.tsv"
    conda:
        "../../environment.yml"
    params:
        arguments=lambda wildcards: study.arguments(job_of(wildcards)),
        weights=lambda wildcards: job_of(wildcards).model.content,
        code=lambda wildcards: study.code(job_of(wildcards)),
    threads: study.config["threads"]
    resources:
        **{"gpu": 0, **study.config["resources"]},
    message:
        "{wildcards.model}: {wildcards.method}, {wildcards.decoding}"
    shell:
        "{dyrate} evaluate {params.arguments:q} --threads {threads} > {log:q} 2>&1"
