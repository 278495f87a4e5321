# Where the unpruned models look while they answer: one job per model, on the benchmarks under `trace`.
import re

from dyrate.trace import study_jobs as tracing

traced = tracing.traced(study)
traces = tracing.summaries(study)


if traced:

    rule trace:
        input:
            data=tracing.data_files(study),
            fetched=lambda w: records(study, traced[w.model]),
            # A fresh clone has new times on the same weights: their content is a parameter instead.
            model=lambda w: ancient(traced[w.model].files),
        output:
            summary=f"results/{study.name}/trace/{{model}}.json",
            mass=f"results/{study.name}/trace/{{model}}.parquet",
            heads=f"results/{study.name}/trace/{{model}}.heads.parquet",
        log:
            f"results/{study.name}/logs/{{model}}/trace.log",
        benchmark:
            f"results/{study.name}/timings/{{model}}/trace.tsv"
        wildcard_constraints:
            model="|".join(map(re.escape, traced)),
        conda:
            "../../environment.yml"
        threads: study.typed.threads
        resources:
            **study.resources,
        params:
            arguments=lambda w: tracing.job(study, traced[w.model]).arguments(),
            tasks=study.tasks_content,
            weights=lambda w: traced[w.model].content,
            code=tracing.code(),
        message:
            "{wildcards.model}: where it looks while it answers ({threads} threads, {resources.gpu} GPU)"
        shell:
            "python -m dyrate.cli trace {params.arguments:q} --threads {threads} > {log:q} 2>&1"
