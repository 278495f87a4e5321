# A study from its config to its report: `snakemake --cores all` runs the testbed.
# What to run, on what, and where it lands is decided in dyrate/study; the rules only say how.
import os
import re
import shlex
import sys
from pathlib import Path

sys.path.insert(0, str(workflow.current_basedir))

from snakemake.exceptions import WorkflowError
from snakemake.logging import logger
from snakemake.settings.types import DeploymentMethod

from dyrate.errors import DyrateError
from dyrate.fingerprint import fingerprint
from dyrate.preflight import first as preflight
from dyrate.study import Study, read_config
from dyrate.study.fit import check_jobs

# A config file named on the command line replaces the default one instead of being merged into it; values given
# without a study (`--config samples=20`) change the default.
if "study" not in config:

    configfile: "config/testbed.yaml"


try:
    # Snakemake has merged them; of a key that stands in one twice, it took the last.
    for path in workflow.configfiles:
        read_config(path)
    study = Study.of(config)
    if workflow.is_main_process:  # a cluster's jobs read this file again, twice each
        check_jobs(study)
except DyrateError as error:
    raise WorkflowError(str(error)) from None
if workflow.is_main_process:
    for line in study.without_data:
        logger.warning(line)
# Jobs run the Python that runs Snakemake, also where its environment is not activated; with `--sdm conda` each
# runs its own environment's, which a prefix would hide.
python = shlex.quote(str(Path(sys.executable).parent))
if DeploymentMethod.CONDA in workflow.deployment_settings.deployment_method:
    prefix = ""
else:
    prefix = f"export PATH={python}:$PATH; "
# Jobs ask the hub for nothing: what they need is fetched before, by a rule that has the user's own setting.
if study.tasks == "hub":
    asked = shlex.quote(os.environ.get("HF_HUB_OFFLINE", "0"))
    prefix += f"export DYRATE_HUB_OFFLINE={asked} HF_HUB_OFFLINE=1; "
shell.prefix(prefix)


report: "workflow/report/workflow.rst"


include: "workflow/rules/testbed.smk"
include: "workflow/rules/fetch.smk"
include: "workflow/rules/training_questions.smk"
include: "workflow/rules/predictors.smk"
include: "workflow/rules/evaluate.smk"
include: "workflow/rules/trace.smk"
include: "workflow/rules/latency.smk"
include: "workflow/rules/survival.smk"
include: "workflow/rules/report.smk"


onstart:
    # On a cluster they would cut each job's CPUs; of this machine there are no more.
    cores = workflow.resource_settings.cores
    if workflow.non_local_exec and cores and cores < study.typed.threads:
        raise WorkflowError(
            f"--cores {cores}: no job would get more CPUs of the cluster, but each takes "
            f"{study.typed.threads} (`threads` in the config): leave --cores out"
        )
    # Before the night is lost; where all is measured there is nothing to look at.
    measuring = re.compile("evaluate|train|trace|latency")
    waiting = [job.rule.name for job in workflow.dag.needrun_jobs()]
    if study.looks_first and any(map(measuring.match, waiting)):
        logger.info(
            f"Preflight of {study.name}, into {preflight.log(study, 'txt')}"
        )
        failing = preflight.look(study, elsewhere=workflow.non_local_exec)
        if failing:
            logger.error("\n".join(["Some of the study would fail:", *failing]))
        if failing and study.typed.preflight == "stop":
            raise WorkflowError(
                "Nothing has been started. Mend it, or let it cost what it costs: --config preflight=warn"
            )


# Where jobs failed, tables and page, which would be of everything, are made from what there is: both commands
# mark what is missing, and list it on stderr.
onerror:
    if any(job.rule.name == "tables" for job in workflow.dag.jobs):
        made, text = f"results/{study.name}", study.to_json()
        page = f"reports/{study.name}/index.html"
        logger.error(f"Tables and {page} are made from what there is:")
        shell(
            "mkdir -p {made:q} && (printf '%s\\n' {text:q} | cmp -s - {made:q}/study.json"
            " || printf '%s\\n' {text:q} > {made:q}/study.json)"
        )
        looks = surviving.drawable(study)
        linked = ["--survival", *survival_pages] if looks else []
        if looks:
            shell(
                "python -m dyrate.cli survival-page {looks:q} --output {survival_pages:q} > /dev/null"
            )
        making = "python -m dyrate.cli {} --failed --study {{made:q}}/study.json --output {}"
        shell(making.format("tables", "{made:q}/tables > /dev/null || true"))
        shell(
            making.format("report", "{page:q} {linked:q} 2>&1 > /dev/null")
            + " | (grep -v '^dyrate: missing: ' >&2 || true)"
        )


rule all:
    default_target: True
    input:
        study.results,
        traces,
        latencies,
        survival_pages,
        rules.tables.output,
        rules.report.output,
    localrule: True
