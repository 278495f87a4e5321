"""The columns of the hub data sets that lmms-eval's tasks read, as Hugging Face features."""

from datasets import Features, Image, Value

_TEXT = Value("string")
_TEXTS = [Value("string")]

COLUMNS: dict[str, dict[str, object]] = {
    "gqa": {
        "id": _TEXT,
        "imageId": _TEXT,
        "question": _TEXT,
        "answer": _TEXT,
        "fullAnswer": _TEXT,
        "isBalanced": Value("bool"),
        "groups": {"global": _TEXT, "local": _TEXT},
        "entailed": _TEXT,
        "equivalent": _TEXT,
        "types": {"structural": _TEXT, "semantic": _TEXT, "detailed": _TEXT},
        "annotations": {
            "question": [{"objectId": _TEXT, "value": _TEXT}],
            "answer": [{"objectId": _TEXT, "value": _TEXT}],
            "fullAnswer": [{"objectId": _TEXT, "value": _TEXT}],
        },
        "semantic": [{"operation": _TEXT, "argument": _TEXT, "dependencies": [Value("int32")]}],
        "semanticStr": _TEXT,
        "image": Image(),  # of the configuration testdev_balanced_images, which the task joins on imageId
    },
    "vizwiz": {
        "question_id": _TEXT,
        "image": Image(),
        "question": _TEXT,
        "answers": _TEXTS,
        "category": _TEXT,
    },
    "sqa": {
        "image": Image(),
        "question": _TEXT,
        "choices": _TEXTS,
        "answer": Value("int8"),
        "hint": _TEXT,
        "task": _TEXT,
        "grade": _TEXT,
        "subject": _TEXT,
        "topic": _TEXT,
        "category": _TEXT,
        "skill": _TEXT,
        "lecture": _TEXT,
        "solution": _TEXT,
    },
    "vqav2": {
        "question_type": _TEXT,
        "multiple_choice_answer": _TEXT,
        "answers": [{"answer": _TEXT, "answer_confidence": _TEXT, "answer_id": Value("int64")}],
        "image_id": Value("int64"),
        "answer_type": _TEXT,
        "question_id": Value("int64"),
        "question": _TEXT,
        "image": Image(),
    },
    "textvqa": {
        "image_id": _TEXT,
        "question_id": Value("int32"),
        "question": _TEXT,
        "question_tokens": _TEXTS,
        "image": Image(),
        "image_width": Value("int32"),
        "image_height": Value("int32"),
        "flickr_original_url": _TEXT,
        "flickr_300k_url": _TEXT,
        "answers": _TEXTS,
        "image_classes": _TEXTS,
        "set_name": _TEXT,
        "ocr_tokens": _TEXTS,
    },
    "pope": {
        "id": _TEXT,
        "question_id": _TEXT,
        "question": _TEXT,
        "answer": _TEXT,
        "image_source": _TEXT,
        "image": Image(),
        "category": _TEXT,
    },
    "mmb": {
        "index": Value("int64"),
        "question": _TEXT,
        "hint": _TEXT,
        "answer": _TEXT,
        "A": _TEXT,
        "B": _TEXT,
        "C": _TEXT,
        "D": _TEXT,
        "category": _TEXT,
        "image": Image(),
        "source": _TEXT,
        "L2-category": _TEXT,
        "comment": _TEXT,
        "split": _TEXT,
    },
    "mme": {
        "question_id": _TEXT,
        "image": Image(),
        "question": _TEXT,
        "answer": _TEXT,
        "category": _TEXT,
    },
    "nocaps": {
        "image": Image(),
        "image_coco_url": _TEXT,
        "image_date_captured": _TEXT,
        "image_file_name": _TEXT,
        "image_height": Value("int32"),
        "image_width": Value("int32"),
        "image_id": Value("int32"),
        "image_license": Value("int8"),
        "image_open_images_id": _TEXT,
        "annotations_ids": [Value("int32")],
        "annotations_captions": _TEXTS,
    },
    "flickr30k": {
        "image": Image(),
        "caption": _TEXTS,
        "sentids": _TEXTS,
        "img_id": _TEXT,
        "filename": _TEXT,
    },
    "coco2017": {
        "question_id": _TEXT,
        "image": Image(),
        "question": _TEXT,
        "answer": _TEXTS,
        "id": Value("int64"),
        "license": Value("int8"),
        "file_name": _TEXT,
        "coco_url": _TEXT,
        "height": Value("int32"),
        "width": Value("int32"),
        "date_captured": _TEXT,
    },
}
"""Benchmark to its columns, in the order of the data set's card."""

ORACLE_COLUMNS = {
    "doc_id": Value("int64"),
    "kind": _TEXT,
    "domain": _TEXT,
    "answer": _TEXT,
}
"""The columns of the file beside a benchmark: what a perfect answerer says, which no real data set tells."""


def features(columns: dict[str, object]) -> Features:
    """Return the columns as `datasets.Features`."""
    return Features(columns)
