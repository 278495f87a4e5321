# The testbed's benchmarks, all of the study's in one job.


if study.tasks == "testbed":

    rule build_benchmarks:
        output:
            study.data_files,
        log:
            f"results/{study.name}/logs/build_benchmarks.log",
        benchmark:
            f"results/{study.name}/timings/build_benchmarks.tsv"
        conda:
            "../../environment.yml"
        threads: 1
        params:
            benchmarks=study.benchmarks,
            samples=study.drawn,
            seed=study.typed.seed,
            sides=["--sides", *study.typed.sides] if study.typed.sides else [],
            output=subpath(output[0], parent=True),
            code=fingerprint(["dyrate.testbed.benchmarks.build"]),
        message:
            "Drawing {params.samples} samples for each of {params.benchmarks}"
        shell:
            "python -m dyrate.cli testbed build --benchmarks {params.benchmarks} --samples {params.samples}"
            " --seed {params.seed} {params.sides} --output {params.output:q} > {log:q} 2>&1"
