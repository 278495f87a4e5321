# Tables, page, and the checked config that both are made from.


rule study:
    output:
        f"results/{study.name}/study.json",
    log:
        f"results/{study.name}/logs/study.log",
    conda:
        "../../environment.yml"
    localrule: True
    params:
        config=study.to_json(),
    message:
        "The config of study " + study.name
    shell:
        "printf '%s\\n' {params.config:q} > {output:q} 2> {log:q}"


rule tables:
    input:
        study=rules.study.output,
        results=study.results,
    output:
        **{
            f"table{number}_{kind}": report(
                f"results/{study.name}/tables/table{number}.{kind}",
                caption=f"../report/table{number}.rst",
                category="Tables",
                labels={"table": label, "format": kind},
            )
            for number, label in (
                (1, "I: questions and short answers"),
                (2, "II: captioning"),
            )
            for kind in ("csv", "html")
        },
    log:
        f"results/{study.name}/logs/tables.log",
    benchmark:
        f"results/{study.name}/timings/tables.tsv"
    conda:
        "../../environment.yml"
    localrule: True
    params:
        output=f"results/{study.name}/tables",
        code=fingerprint(["dyrate.report.commands"]),
    threads: 1
    message:
        "Tables of study " + study.name
    shell:
        "{dyrate} tables --study {input.study:q} --output {params.output:q} > {log:q} 2>&1"


rule report:
    input:
        study=rules.study.output,
        results=study.results,
    output:
        report(
            f"reports/{study.name}/index.html",
            caption="../report/page.rst",
            category="Report",
            labels={"page": "the whole report"},
        ),
    log:
        f"results/{study.name}/logs/report.log",
    benchmark:
        f"results/{study.name}/timings/report.tsv"
    conda:
        "../../environment.yml"
    localrule: True
    params:
        code=fingerprint(["dyrate.report.commands"]),
    threads: 1
    message:
        "Report of study " + study.name
    shell:
        "{dyrate} report --study {input.study:q} --output {output:q} > {log:q} 2>&1"
