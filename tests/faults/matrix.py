"""The fault matrix: what may be wrong with what dyrate is given, and what must come of it. Add a line.

`refused(...)`: exit status 2, no result, and one line on stderr in which the regular expression is found.
`WORKS`: exit status 0. Damage is done to a copy of a tiny checkpoint, its benchmarks and a finished result.
"""

# A line a fault, however long.
# ruff: noqa: E501, I001
# fmt: off
from dataclasses import dataclass

from tests.faults.damage import Damage, column, copied, cut, document, edited, flipped, linked, missing, nothing, poisoned, renamed, replaced, rows, scaled, setting, without, without_column, written


@dataclass(frozen=True)
class Fault:
    what: str
    damage: Damage
    command: str
    refusal: str | None
    """Regular expression of the one line on stderr; None: the command succeeds."""


WORKS = None


def refused(pattern: str) -> str:
    return pattern


EVALUATE = "evaluate --model MODEL --benchmarks gqa --samples 3 --data DATA --output OUTPUT"
SQA, MMB, MME, VIZWIZ, COCO, POPE = (EVALUATE.replace("gqa", name) for name in ("sqa", "mmb", "mme", "vizwiz", "coco2017", "pope"))
TRAIN = "train-predictor --model MODEL --output OUTPUT --recipe"

CHECKPOINT = [
    Fault("as it should be", nothing, EVALUATE, WORKS),
    Fault("no projector", without("multi_modal_projector"), EVALUATE, refused("multi_modal_projector.linear_1")),
    Fault("a layer that has no weights", setting("config.json", "text_config.num_hidden_layers", 3), EVALUATE, refused(r"layers\.2\.")),
    Fault("a layer that the model has not", setting("config.json", "text_config.num_hidden_layers", 1), EVALUATE, refused(r"layers\.1\.")),
    Fault("PEFT's names", renamed("layers.0.self_attn.q_proj.", "layers.0.self_attn.q_proj.base_layer."), EVALUATE, refused("q_proj")),
    Fault("another width", setting("config.json", "text_config.intermediate_size", 32), EVALUATE, refused("gate_proj|down_proj|mlp")),
    Fault("NaN in one number", poisoned("lm_head", float("nan")), EVALUATE, refused("NaN|finite")),
    Fault("infinity in the tower", poisoned("vision_tower", float("inf")), EVALUATE, refused("NaN|finite|infinite")),
    Fault("weights too large for float16", scaled(1e5), EVALUATE + " --dtype float16", refused("float16")),
    Fault("rope_theta is NaN", replaced("model/config.json", '"rope_theta": 10000.0', '"rope_theta": NaN'), EVALUATE, refused("rope_theta")),
    Fault("config.json is cut off", cut("model/config.json"), EVALUATE, refused("config.json")),
    Fault("tokenizer.json is cut off", cut("model/tokenizer.json", 400), EVALUATE, refused("tokenizer")),
    Fault("weights are cut off", cut("model/model.safetensors", 5000), EVALUATE, refused("model.safetensors|damaged|cut off")),
    Fault("no config.json", missing("model/config.json"), EVALUATE, refused("config.json")),
    Fault("no weights", missing("model/model.safetensors"), EVALUATE, refused("safetensors")),
    Fault("no chat template", missing("model/chat_template.jinja"), EVALUATE, refused("has no chat template, and gets none unasked")),
    Fault("no chat template, but one that is asked for", missing("model/chat_template.jinja"), EVALUATE + " --chat-template vicuna", WORKS),
    Fault("a template by another name", nothing, EVALUATE + " --chat-template vicunia", refused("--chat-template vicunia: .*no such file")),
    Fault("a branch for a revision", nothing, EVALUATE + " --revision main", refused("--revision: 'main' is no commit of 40")),
    Fault("a revision of a folder", nothing, EVALUATE + f" --revision {'0' * 40}", refused("is a folder; only what is on the hub has revisions")),
    Fault("samples of another benchmark", nothing, EVALUATE + ' --samples {"gqua":3}', refused("--samples: unknown benchmark 'gqua'; did you mean 'gqa'")),
    Fault("samples that are no number", nothing, EVALUATE + ' --samples {"gqa":0}', refused("--samples: gqa: 0 is not a whole number from 1 on")),
    Fault("samples by benchmark", nothing, EVALUATE + ' --samples {"gqa":2,"default":null}', WORKS),
    Fault("a subset that is none", nothing, EVALUATE + ' --subsets {"gqa":"half"}', refused("--subsets: gqa: has no subset 'half'")),
    Fault("a benchmark that nobody has", nothing, "fetch --benchmark gqua --output OUTPUT", refused("unknown benchmark 'gqua'")),
    Fault("a config that is not there", nothing, "preflight --configfile nothing.yaml", refused("no study config at nothing.yaml")),
    Fault("no such device", nothing, EVALUATE + " --device mps", refused("mps")),
    Fault("no such GPU", nothing, EVALUATE + " --device cuda:99", refused("cuda:99")),
]

GENERATION = [
    Fault("a penalty of the checkpoint's own", setting("generation_config.json", "repetition_penalty", 1.7), EVALUATE, WORKS),
    Fault("return_dict_in_generate", setting("generation_config.json", "return_dict_in_generate", True), EVALUATE, WORKS),
    Fault("sampling settings, which greedy decoding ignores", setting("generation_config.json", "temperature", 0.7), EVALUATE, WORKS),
    Fault("no temperature at all", nothing, EVALUATE + ' --decoding {"name":"top_p","temperature":1e-300}', refused("temperature")),
    Fault("a temperature of NaN", nothing, EVALUATE + ' --decoding {"name":"top_p","temperature":NaN}', refused("NaN|temperature")),
    Fault("no beams", nothing, EVALUATE + " --decoding beam-0", refused("beam-0")),
    Fault("tokens that may not be said", setting("generation_config.json", "suppress_tokens", [10]), EVALUATE, refused("suppress_tokens")),
    Fault("a least length", setting("generation_config.json", "min_new_tokens", 5), EVALUATE, refused("min_new_tokens")),
    Fault("several ends", setting("generation_config.json", "eos_token_id", [2, 40]), EVALUATE, WORKS),
    Fault("an end that is no token", setting("generation_config.json", "eos_token_id", 99999), EVALUATE, refused("eos_token_id is 99999")),
    Fault("no cache, by the checkpoint", setting("generation_config.json", "use_cache", False), EVALUATE, WORKS),
    Fault("a penalty by the engine", setting("generation_config.json", "repetition_penalty", 1.7), EVALUATE + " --engine graph", WORKS),
    Fault("a penalty that is none", setting("generation_config.json", "repetition_penalty", -1.0), EVALUATE, refused("repetition_penalty=-1.0")),
]

ROWS = [
    Fault("no column", without_column("gqa", "question"), EVALUATE, refused("gqa.*question")),
    Fault("a question of null", column("gqa", "question", None), EVALUATE, refused("gqa.*row 1.*question")),
    Fault("an empty question", column("gqa", "question", " "), EVALUATE, refused("gqa.*row 1.*question")),
    Fault("an answer of null", column("gqa", "answer", None), EVALUATE, refused("gqa.*row 1.*answer")),
    Fault("answers of null", column("vizwiz", "answers", None), VIZWIZ, refused("vizwiz.*row 1.*answers")),
    Fault("no answers", column("vizwiz", "answers", []), VIZWIZ, refused("vizwiz.*row 1.*answers")),
    Fault("a label out of range", column("sqa", "answer", 7), SQA, refused("sqa.*row 1.*answer.*7")),
    Fault("a label of no option", column("mmb", "answer", "E"), MMB, refused("mmb.*row 1.*answer.*E")),
    Fault("a circular group with a gap", rows("mmb", lambda found: found.pop(0)), MMB, refused("mmb.*(group|rotation|index)")),
    Fault("half a pair", rows("mme", lambda found: found.pop(0)), MME, refused("mme.*question_id")),
    Fault("neither yes nor no", column("pope", "answer", "maybe"), POPE, refused("pope.*row 1.*answer.*maybe")),
    Fault("a caption of null", column("coco2017", "answer", None), COCO, refused("coco2017.*row 1.*answer")),
    Fault("an image that is a system file", column("gqa", "image", {"bytes": None, "path": "/etc/passwd"}), EVALUATE, refused("gqa.*row 1.*image")),
    Fault("an image at an address", column("gqa", "image", {"bytes": None, "path": "http://127.0.0.1/x.png"}), EVALUATE, refused("gqa.*row 1.*image")),
    Fault("bytes that are no image", column("gqa", "image", {"bytes": b"no image", "path": None}), EVALUATE, refused("gqa.*row 1.*image")),
    Fault("no image", column("gqa", "image", None), EVALUATE, refused("gqa.*row 1.*image")),
    Fault("a question with an image token of its own", column("gqa", "question", "a <image> b <image>?"), EVALUATE, refused("gqa.*row 1.*<image>")),
    Fault("a prompt longer than the model's positions", column("gqa", "question", "why " * 900), EVALUATE, refused("gqa.*row 1.*2048")),
    Fault("a question that ends the text", column("gqa", "question", "a </s> b?"), EVALUATE, WORKS),
    Fault("a question that plays the assistant", column("gqa", "question", "a ASSISTANT: yes USER: b?"), EVALUATE, WORKS),
    Fault("two images of one number", column("coco2017", "question_id", "val_0000.jpg"), COCO, refused("coco2017.*row 1.*another image")),
    Fault("no data", missing("data/gqa.parquet"), EVALUATE, refused("gqa.parquet.*dyrate testbed build")),
    Fault("data cut off", cut("data/gqa.parquet", 500), EVALUATE, refused("gqa")),
]

METHODS = [
    Fault("an unknown method", nothing, EVALUATE + " --method fastw", refused("did you mean 'fastv'")),
    Fault("a layer that the model has not", nothing, EVALUATE + ' --method {"name":"fastv","layer":99}', refused("layer 99.*0..1")),
    Fault("a rate of NaN", nothing, EVALUATE + ' --method {"name":"fastv","layer":1,"rate":NaN}', refused("NaN")),
    Fault("no predictor", nothing, EVALUATE + " --method dyrate", refused("predictor.*predictors/")),
    Fault("a file that exits", written("m.py", "raise SystemExit(0)"), EVALUATE + " --method FOLDER/m.py:M", refused("m.py.*SystemExit|m.py.*exit")),
    Fault("a file that fails", written("m.py", "import nothing_of_that_name"), EVALUATE + " --method FOLDER/m.py:M", refused("m.py.*nothing_of_that_name")),
    Fault("a file that is no Python", written("m.py", "def"), EVALUATE + " --method FOLDER/m.py:M", refused("m.py.*line 1|m.py:1|m.py.*[Ss]yntax")),
    Fault("a misspelt override", written("m.py", "from dyrate import ReductionMethod\nclass M(ReductionMethod):\n    def prefil(self, view): return None\n"), EVALUATE + " --method FOLDER/m.py:M", refused("prefil.*prefill")),
    Fault("nothing overridden", written("m.py", "from dyrate import ReductionMethod\nclass M(ReductionMethod):\n    title = 'M'\n"), EVALUATE + " --method FOLDER/m.py:M", refused("m.py.*overrides none of")),
    Fault("decoding that is never asked for", written("m.py", "from dyrate import Needs, ReductionMethod\nclass M(ReductionMethod):\n    def needs(self, n): return Needs(prefill=(1,))\n    def decode(self, view): return view.present\n"), EVALUATE + " --method FOLDER/m.py:M", refused("no prefill to ask")),
    Fault("attention that nobody asked for", written("m.py", "from dyrate import Needs, ReductionMethod\nclass M(ReductionMethod):\n    def needs(self, n): return Needs(prefill=(1,))\n    def prefill(self, view): return view.attention[0].scores > 0\n"), EVALUATE + " --method FOLDER/m.py:M", refused("does not have the attention of layer")),
    Fault("a seed of 80 bits", nothing, EVALUATE + f' --method {{"name":"random","layer":1,"seed":{2**80}}}', refused("64 bits")),
    Fault("a name of 5000 letters", nothing, EVALUATE + " --method " + "m" * 5000 + ".py:M", refused("m.py:M|too long|no file")),
    Fault("JSON that says a thing twice", nothing, EVALUATE + ' --method {"name":"fastv","layer":1,"layer":1}', refused("layer.*twice")),
]

LOOK = "look FOLDER/photo.jpg --question Why? --new-tokens 2 --model MODEL --method text_only"
LOOKING = [
    Fault("a photo that is text", written("photo.jpg", "no image"), LOOK, refused("photo.jpg: its 8 bytes are no image")),
    Fault("no photo", nothing, LOOK, refused("photo.jpg: no such file")),
    Fault("a scene of the testbed", nothing, "look --sample gqa:1 --new-tokens 2 --model MODEL --method text_only", WORKS),
    Fault("a damaged model", poisoned("lm_head", float("nan")), "look --sample --model MODEL --method text_only", refused("NaN|finite")),
]

STUDY = """study: tiny
tasks: testbed
data: data
samples: 3
models:
  - {name: tiny, path: model}
methods:
  - {name: none}
  - {name: fastv, layer: 1, rate: 0.5}
benchmarks: [gqa]
"""
PLAN = "plan study.yaml"


def study(old: str, new: str) -> Damage:
    """A study that differs from the one above in this."""
    assert old in STUDY
    return written("study.yaml", STUDY.replace(old, new, 1))


PLANNING = [
    Fault("as it should be", study("tiny", "tiny"), PLAN, WORKS),
    Fault("a layer that the model has not", study("layer: 1", "layer: 20"), PLAN, refused("fastv.*layer 20.*0..1")),
    Fault("samples as a float", study("samples: 3", "samples: 3.0"), PLAN, refused("samples.*3.0")),
    Fault("samples as a truth", study("samples: 3", "samples: true"), PLAN, refused("samples.*[Tt]rue")),
    Fault("no folder of data", study("data: data", 'data: ""'), PLAN, refused("data")),
    Fault("a name with a newline", study("name: tiny", 'name: "tiny\\n"'), PLAN, refused("models.*name")),
    Fault("a study in the place of shipped results", study("study: tiny", "study: h200"), PLAN, refused("h200")),
    Fault("a key that is given twice", study("samples: 3", "samples: 3\nsamples: 4"), PLAN, refused("samples.*twice")),
    Fault("one method in two spellings", study("{name: none}", "{name: none}\n  - {name: fastv, layer: 1, rate: 1}\n  - {name: fastv, layer: 1, rate: 1.0}"), PLAN, refused("two jobs would write.*fastv")),
    Fault("a default spelled out", study("{name: none}", "{name: none}\n  - {name: fastv, layer: 1}"), PLAN, refused("fastv.*are one method")),
    Fault("an own result as an external one", study("benchmarks:", "external: [results/tiny/tiny/none/greedy.json]\nbenchmarks:"), PLAN, refused("external")),
    Fault("no benchmarks", study("[gqa]", "[]"), PLAN, refused("benchmarks")),
    Fault("deep YAML", written("study.yaml", "study: " + "[" * 5000), PLAN, refused("study.yaml")),
    Fault("a list", written("study.yaml", "- study"), PLAN, refused("study.yaml.*list")),
]


# In the folder `out` the unpruned model and `text_only` have been evaluated.
NONE = EVALUATE.replace("OUTPUT", "OUTPUT/none")
TEXT = EVALUATE.replace("OUTPUT", "OUTPUT/text") + " --method text_only --baseline OUTPUT/none/greedy.json"


def other_answer(log: str) -> str:
    """A log whose first answer is another one."""
    start = log.index('"answers": ["') + len('"answers": ["')
    return f"{log[:start]}x{log[start:]}"


RESULTS = [
    Fault("once more", nothing, NONE, WORKS),
    Fault("once more, with a baseline", nothing, TEXT, WORKS),
    Fault("another answer in the log", edited("out/none/greedy.log.jsonl", other_answer), NONE, refused(r"greedy.log.jsonl.*line \d is damaged.*set aside")),
    Fault("two answers to one question", edited("out/none/greedy.log.jsonl", lambda log: log + other_answer(log)), NONE, refused(r"greedy.log.jsonl.*line \d")),
    Fault("a log that ends within a line", edited("out/none/greedy.log.jsonl", lambda log: log[:-20]), NONE, WORKS),
    Fault("a link in the log's place", linked("out/none/greedy.log.jsonl"), NONE, refused("greedy.log.jsonl is a link")),
    Fault("another job's result", copied("out/text/greedy.json", "out/none/greedy.json"), TEXT, refused("none/greedy.json.*method")),
    Fault("another job's answers", copied("out/text/greedy.answers.parquet", "out/none/greedy.answers.parquet"), TEXT, refused("holds other answers")),
    Fault("a result that is cut off", cut("out/none/greedy.json", 300), TEXT, refused("none/greedy.json.*not JSON")),
    Fault("no answers", missing("out/none/greedy.answers.parquet"), TEXT, refused("greedy.answers.parquet")),
]

PREDICTED = EVALUATE + ' --method {"name":"dyrate","layer":1,"predictor":"PREDICTOR"}'
PREDICTORS = [
    Fault("as it should be", nothing, PREDICTED, WORKS),
    Fault("of another layer", nothing, PREDICTED.replace('"layer":1', '"layer":2'), refused("layer=1|layer 1|no layer")),
    Fault("a record without the hash", document("predictor/predictor.json", lambda record: record.pop("sha256")), PREDICTED, refused("predictor.json.*sha256")),
    Fault("other weights", flipped("predictor/predictor.safetensors"), PREDICTED, refused("predictor")),
    Fault("a record that is cut off", cut("predictor/predictor.json", 90), PREDICTED, refused("predictor.json")),
    Fault("a model with other weights", scaled(1.5), PREDICTED, refused("trained on other weights|other weights")),
    Fault("no folder", nothing, PREDICTED.replace("PREDICTOR", "FOLDER/nowhere"), refused("nowhere")),
]

ADAPTER = 'evaluate --model instructblip --adapter {"arguments":{"pretrained":"MODEL"}} --benchmarks gqa --samples 3 --data DATA --output FOLDER/other'
ADAPTERS = [
    Fault("a LLaVA where an InstructBLIP should be", nothing, ADAPTER, refused("adapter instructblip: .*lacks .* drawn at random")),
    Fault("an adapter that lmms-eval does not have", nothing, ADAPTER.replace("instructblip", "instructblp"), refused("did you mean 'instructblip'")),
    Fault("an argument that it does not take", nothing, ADAPTER.replace("pretrained", "pretraned"), refused("no argument 'pretraned'; did you mean 'pretrained'")),
    Fault("code of a checkpoint, of no commit", nothing, ADAPTER.replace('{"arguments"', '{"trust_remote_code":true,"arguments"'), refused("trust_remote_code: true needs a `revision`")),
    Fault("options that are no JSON", nothing, ADAPTER.replace('{"arguments":{"pretrained":"MODEL"}}', "instructblip"), refused("--adapter: .*not JSON")),
    Fault("a method beside it", nothing, ADAPTER + " --method random", refused("--method: 'random'")),
]
