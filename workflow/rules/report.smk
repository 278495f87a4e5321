# Tables, pages, and the checked config that all are made from.
from pathlib import Path

from dyrate.report.site import FIGURES, PAGES
from dyrate.speed import documents as speed
from dyrate.study.content import content


rule study:
    output:
        f"results/{study.name}/study.json",
    log:
        f"results/{study.name}/logs/study.log",
    localrule: True
    conda:
        "../../environment.yml"
    params:
        config=study.to_json(),
    message:
        f"Config of study {study.name}"
    shell:
        "printf '%s\\n' {params.config:q} > {output:q} 2> {log:q}"


# Key of a table's files, which is also that of its caption; how Snakemake's own report labels it; its formats.
PASTED = "csv", "md", "tex"
PAGE = *PASTED, "html"
TABLES = {
    "table1": ("I: questions and short answers", *PAGE),
    "table2": ("II: captioning", *PAGE),
    "table3": ("III: efficiency", *PAGE),
    "ablation_strategy": ("ablation: pruning strategy", *PAGE),
    "ablation_decoding": ("ablation: decoding", *PAGE),
    "ablation_predictor": ("ablation: predictor", *PAGE),
    "equal_budget": ("DyRate at equal budget", *PASTED),
    "ranking": ("all methods at equal budget", *PASTED),
    "carried": ("verdicts of one model on another", *PASTED),
    "cost": ("FLOPs by convention", *PASTED),
    "audit": ("audit of the printed tables", *PASTED),
    "measurements": ("all that was measured or printed", "csv"),
}


rule tables:
    input:
        study=rules.study.output,
        results=study.results,
        latencies=latencies,
        # Not shown, but what the study lacks is listed.
        traces=traces,
        survivals=[surviving.record(study, name) for name in survivals],
    output:
        **{
            f"{key}_{kind}": report(
                f"results/{study.name}/tables/{key}.{kind}",
                caption=f"../report/{key}.rst",
                category="Tables",
                labels={"table": label, "format": kind},
            )
            for key, (label, *kinds) in TABLES.items()
            for kind in kinds
        },
    log:
        f"results/{study.name}/logs/tables.log",
    benchmark:
        f"results/{study.name}/timings/tables.tsv"
    localrule: True
    conda:
        "../../environment.yml"
    threads: 1
    params:
        output=subpath(output.table1_csv, parent=True),
        code=fingerprint(["dyrate.report.commands"]),
    message:
        f"Tables of study {study.name}"
    shell:
        "python -m dyrate.cli tables --study {input.study:q} --output {params.output:q} > {log:q} 2>&1"


rule report:
    input:
        study=rules.study.output,
        results=study.results,
        latencies=latencies,
        traces=traces,
        # Times on a GPU come with the checkout, as predictors do: their content is a parameter.
        speed=ancient(speed.paths() + speed.paths(speed.METHODS)),
    output:
        **{
            Path(page).stem: report(
                f"reports/{study.name}/{page}",
                caption="../report/page.rst",
                category="Report",
                labels={"page": title},
            )
            for page, title in PAGES.items()
        },
        figures=directory(f"reports/{study.name}/{FIGURES}"),
    log:
        f"results/{study.name}/logs/report.log",
    benchmark:
        f"results/{study.name}/timings/report.tsv"
    localrule: True
    conda:
        "../../environment.yml"
    threads: 1
    params:
        speed=content(speed.paths() + speed.paths(speed.METHODS)),
        survival=[word for page in survival_pages for word in ("--survival", page)],
        code=fingerprint(["dyrate.report.commands"]),
    message:
        f"Report of study {study.name}"
    shell:
        "python -m dyrate.cli report --study {input.study:q} --output {output.index:q} {params.survival:q}"
        " > {log:q} 2>&1"
