# Which visual tokens live at each generated word: some samples of each model, looked at again, and their page. A job
# that fails costs answers of this page alone, and is listed with what the study lacks.
import re

from dyrate.look import study_jobs as surviving

survivals = surviving.survivals(study)
survival_pages = surviving.page(study)
of_name = {model.name: model for model in study.models}


if survivals:

    rule survival:
        input:
            results=lambda w: [job.result for job in survivals[w.model]],
            answers=lambda w: surviving.answers(survivals[w.model]),
            data=study.data_of(surviving.benchmarks(study)),
            fetched=lambda w: records(study, of_name[w.model]),
            # A fresh clone has new times on the same files: their content is a parameter instead.
            model=lambda w: ancient(of_name[w.model].files),
            shipped=lambda w: ancient(
                surviving.predictor_files(survivals[w.model], True)
            ),
            trained=lambda w: surviving.predictor_files(survivals[w.model], False),
        output:
            f"results/{study.name}/survival/{{model}}.json",
        log:
            f"results/{study.name}/logs/{{model}}/survival.log",
        benchmark:
            f"results/{study.name}/timings/{{model}}/survival.tsv"
        wildcard_constraints:
            model="|".join(map(re.escape, survivals)),
        conda:
            "../../environment.yml"
        threads: study.typed.threads
        resources:
            **study.resources,
        params:
            arguments=lambda w: surviving.job(
                study, of_name[w.model], survivals[w.model]
            ).arguments(),
            tasks=study.tasks_content,
            weights=lambda w: of_name[w.model].content,
            predictors=lambda w: [job.predictor_content for job in survivals[w.model]],
            code=lambda w: surviving.code(survivals[w.model]),
        message:
            "{wildcards.model}: which tokens live at each word ({threads} threads, {resources.gpu} GPU)"
        shell:
            "python -m dyrate.cli survival {params.arguments:q} --threads {threads} > {log:q} 2>&1"

    rule survival_page:
        input:
            [surviving.record(study, name) for name in survivals],
        output:
            report(
                survival_pages[0],
                caption="../report/survival.rst",
                category="Report",
                labels={"page": "token survival"},
            ),
        log:
            f"results/{study.name}/logs/survival_page.log",
        localrule: True
        conda:
            "../../environment.yml"
        threads: 1
        params:
            code=fingerprint(["dyrate.look.page.render"]),
        message:
            f"Token survival of study {study.name}"
        shell:
            "python -m dyrate.cli survival-page {input:q} --output {output:q} > {log:q} 2>&1"
