import re

# One job per predictor and model that the checkout does not ship; `--config retrain=1` trains those as well.


if study.trainings:

    rule train_predictor:
        input:
            fetched=lambda w: records(study, study.training(*w).model),
            # A fresh clone has new times on the same weights: their content is a parameter instead.
            model=lambda w: ancient(study.training(*w).model.files),
            made=lambda w: study.made_questions(study.training(*w)),
        output:
            # A checkpoint stands beside these, undeclared, so that a killed training goes on from it.
            record=f"results/{study.name}/predictors/{{model}}/{{predictor}}/predictor.json",
            weights=f"results/{study.name}/predictors/{{model}}/{{predictor}}/predictor.safetensors",
        log:
            f"results/{study.name}/logs/{{model}}/train_predictor/{{predictor}}.log",
        benchmark:
            f"results/{study.name}/timings/{{model}}/train_predictor/{{predictor}}.tsv"
        wildcard_constraints:
            model="|".join(re.escape(entry.model.name) for entry in study.trainings),
            predictor="|".join(re.escape(entry.name) for entry in study.trainings),
        # Whole tables wait for them: they come first.
        priority: 1
        conda:
            "../../environment.yml"
        threads: study.typed.threads
        resources:
            **study.resources,
        params:
            arguments=lambda w: study.asked_training(study.training(*w)).arguments(),
            # No input: a user's file may be missing when the study is planned, and the command says so clearly.
            data=lambda w: (
                None
                if study.made_questions(study.training(*w))
                else study.training(*w).data_content
            ),
            weights=lambda w: study.training(*w).model.content,
            code=fingerprint(["dyrate.predictor_training.commands"]),
        message:
            "{wildcards.model}: training predictor {wildcards.predictor} ({threads} threads, {resources.gpu} GPU)"
        shell:
            "python -m dyrate.cli train-predictor {params.arguments:q} --threads {threads} > {log:q} 2>&1"
