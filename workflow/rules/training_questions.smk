# The questions that DyRate's predictor is trained on, where the study names no file of its own and you none of yours.
from dyrate.training_questions.record import images_folder, record_path

if study.questions:

    rule training_questions:
        input:
            data=study.data_files,
            fetched=[
                fetched[name].output for name in study.benchmarks if name in fetched
            ],
        output:
            questions=study.questions,
            record=record_path(Path(study.questions)),
            images=directory(images_folder(Path(study.questions))),
        log:
            f"results/{study.name}/logs/training_questions.log",
        benchmark:
            f"results/{study.name}/timings/training_questions.tsv"
        # It reads the hub, which a cluster's nodes may not reach.
        localrule: True
        conda:
            "../../environment.yml"
        threads: 1
        params:
            arguments=study.asked_questions(study.questions).arguments(),
            tasks=study.tasks_content,
            code=fingerprint(["dyrate.training_questions.commands"]),
        message:
            f"Training questions without the images of {len(study.benchmarks)} benchmarks"
        shell:
            "HF_HUB_OFFLINE=${{DYRATE_HUB_OFFLINE:-${{HF_HUB_OFFLINE:-0}}}} "
            "python -m dyrate.cli training-questions {params.arguments:q} > {log:q} 2>&1"
