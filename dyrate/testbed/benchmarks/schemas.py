"""The columns of the hub data sets that lmms-eval's tasks read, as Hugging Face features."""

from typing import Any

from datasets import Features, Image, Value

_TEXT = Value("string")
_TEXTS = [_TEXT]
_INT8, _INT32, _INT64 = Value("int8"), Value("int32"), Value("int64")


def _columns(names: str, **others: Any) -> Features:
    """Return columns in the order of the data set's card: texts, except `image` and the `others`."""
    types = {"image": Image(), **others}
    return Features({name: types.get(name, _TEXT) for name in names.split()})


COLUMNS: dict[str, Features] = {
    "gqa": _columns(  # the image of testdev_balanced_images, which the task joins on imageId
        "id imageId question answer fullAnswer isBalanced groups entailed equivalent types annotations "
        "semantic semanticStr image",
        isBalanced=Value("bool"),
        groups={"global": _TEXT, "local": _TEXT},
        types={"structural": _TEXT, "semantic": _TEXT, "detailed": _TEXT},
        annotations={
            place: [{"objectId": _TEXT, "value": _TEXT}] for place in ("question", "answer", "fullAnswer")
        },
        semantic=[{"operation": _TEXT, "argument": _TEXT, "dependencies": [_INT32]}],
    ),
    "vizwiz": _columns("question_id image question answers category", answers=_TEXTS),
    "sqa": _columns(
        "image question choices answer hint task grade subject topic category skill lecture solution",
        choices=_TEXTS,
        answer=_INT8,
    ),
    "vqav2": _columns(
        "question_type multiple_choice_answer answers image_id answer_type question_id question image",
        answers=[{"answer": _TEXT, "answer_confidence": _TEXT, "answer_id": _INT64}],
        image_id=_INT64,
        question_id=_INT64,
    ),
    "textvqa": _columns(
        "image_id question_id question question_tokens image image_width image_height flickr_original_url "
        "flickr_300k_url answers image_classes set_name ocr_tokens",
        question_id=_INT32,
        question_tokens=_TEXTS,
        image_width=_INT32,
        image_height=_INT32,
        answers=_TEXTS,
        image_classes=_TEXTS,
        ocr_tokens=_TEXTS,
    ),
    "pope": _columns("id question_id question answer image_source image category"),
    "mmb": _columns(
        "index question hint answer A B C D category image source L2-category comment split", index=_INT64
    ),
    "mme": _columns("question_id image question answer category"),
    "nocaps": _columns(
        "image image_coco_url image_date_captured image_file_name image_height image_width image_id "
        "image_license image_open_images_id annotations_ids annotations_captions",
        image_height=_INT32,
        image_width=_INT32,
        image_id=_INT32,
        image_license=_INT8,
        annotations_ids=[_INT32],
        annotations_captions=_TEXTS,
    ),
    "flickr30k": _columns("image caption sentids img_id filename", caption=_TEXTS, sentids=_TEXTS),
    "coco2017": _columns(
        "question_id image question answer id license file_name coco_url height width date_captured",
        answer=_TEXTS,
        id=_INT64,
        license=_INT8,
        height=_INT32,
        width=_INT32,
    ),
}
"""Benchmark to its columns."""

ORACLE_COLUMNS = _columns("doc_id kind domain answer", doc_id=_INT64)
"""The columns of the file beside a benchmark: what a perfect answerer says, which no real data set tells."""
