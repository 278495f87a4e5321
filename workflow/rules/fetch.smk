# What a study needs from the hub, each thing once and by a job of its own. All other jobs ask the hub for nothing.
import re

from dyrate.study.fetches import failures, fetches, records

fetched = fetches(study)


if fetched:

    rule fetch_one:
        output:
            f"{study.hub}/{{item}}.json",
        log:
            f"results/{study.name}/logs/fetch/{{item}}.log",
        wildcard_constraints:
            item="|".join(map(re.escape, fetched)),
        retries: 2
        # Compute nodes often have no network.
        localrule: True
        conda:
            "../../environment.yml"
        threads: 1
        params:
            arguments=lambda w: fetched[w.item].arguments(),
            # A benchmark's data that does not come costs its own cells only: the job succeeds, and runs again next time.
            failures=lambda w: failures(fetched[w.item]),
        message:
            "Fetching {wildcards.item}"
        shell:
            "HF_HUB_OFFLINE=$DYRATE_HUB_OFFLINE python -m dyrate.cli fetch {params.arguments:q} > {log:q} 2>&1"


rule fetch:
    input:
        [job.output for job in fetched.values()],
    log:
        f"results/{study.name}/logs/fetch.log",
    localrule: True
    conda:
        "../../environment.yml"
    threads: 1
    shell:
        # A record of what did not come says why.
        "! grep -h '\"why\":' {input:q} /dev/null > {log:q} || (cat {log:q}; exit 1)"
