"""How fast is preparing each form that ImageNet comes in, against its archives?

Builds archives from a folder of originals as `preparing.py` does, and from them, with
the same names in the same order: Kaggle's tree, class folders, Parquet in row groups of
100, TFRecord, and WebDataset's shards. Then, in turn, the whole command `prepare` on
each. `ratio` is the least of the forms' rates over that of the archives; `cpu_ratio`
compares processor time, which other work on the machine changes less.

Apart from the rounds: the memory of all processes, for the archives and each form, with
a tenth of the images and with all; and for each form a preparation that is killed by
SIGKILL, once it has written some shards, and continued. Its files, and those of every
form, must be those from the archives, but for the manifest's `source`.

    python experiments/benchmarks/preparing_forms.py --originals=IMAGES --work=FOLDER \
        --output=experiments/benchmarks/preparing_forms
"""

import argparse
import hashlib
import json
import os
import resource
import shutil
import signal
import statistics
import subprocess
import sys
import time
from pathlib import Path


ROOT = Path(__file__).parents[2]
sys.path[:0] = [str(ROOT), str(ROOT / "tests" / "support")]

# isort: split

import pyarrow
from pyarrow import parquet

from alexnet_jax.data.sources import registry

import archives
import forms
import harness
import preparing


IN_SHARD, IN_ROW_GROUP = 1000, 100
SOURCES = {
    "archives": "imagenet",
    "kaggle": "imagenet",
    "class_folders": "imagenet",
    "parquet": "parquet",
    "tfrecord": "tfds",
    "webdataset": "webdataset",
}


def photos(dataset):
    """The images of each split: name, WNID and bytes."""
    for split, source in dataset.splits.items():
        yield (
            split,
            (
                (
                    source.name(i),
                    dataset.class_ids[source.label(i)],
                    source.encoded(i).data,
                )
                for i in range(len(source))
            ),
        )


def shards(images):
    """Lists of images."""
    part = []
    for image in images:
        part.append(image)
        if len(part) == IN_SHARD:
            yield part
            part = []
    if part:
        yield part


def write_file(path, data):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data)


def write_kaggle(root, dataset):
    rows = []
    for split, images in photos(dataset):
        place = root / "ILSVRC/Data/CLS-LOC" / ("train" if split == "train" else "val")
        for name, wnid, data in images:
            write_file(place / name, data)
            if split == "validation":
                rows.append(f"{name.removesuffix('.JPEG')},{wnid} 1 2 3 4\n")
    text = "ImageId,PredictionString\n" + "".join(rows)
    (root / "LOC_val_solution.csv").write_text(text)


def write_class_folders(root, dataset):
    for split, images in photos(dataset):
        for name, wnid, data in images:
            place = "train" if split == "train" else f"val/{wnid}"
            write_file(root / place / name, data)


def write_parquet(root, dataset):
    note = {
        "image": {"_type": "Image"},
        "label": {"_type": "ClassLabel", "names": list(dataset.class_ids)},
    }
    metadata = {"huggingface": json.dumps({"info": {"features": note}})}
    for split, images in photos(dataset):
        for number, part in enumerate(shards(images)):
            table = pyarrow.Table.from_pylist(
                [
                    {
                        "image": {"bytes": data, "path": name},
                        "label": dataset.class_ids.index(wnid),
                    }
                    for name, wnid, data in part
                ]
            ).replace_schema_metadata(metadata)
            path = root / f"{split}-{number:05d}.parquet"
            parquet.write_table(table, path, row_group_size=IN_ROW_GROUP)


def write_tfrecord(root, dataset):
    kind = "tensorflow_datasets.core.features"
    features = {
        "image": {"pythonClassName": f"{kind}.image_feature.Image"},
        "label": {"pythonClassName": f"{kind}.class_label_feature.ClassLabel"},
        "file_name": {"pythonClassName": f"{kind}.text_feature.Text"},
    }
    splits = []
    for split, images in photos(dataset):
        # One file, since TensorFlow Datasets would mix the order of several.
        path = root / f"set-{split}.tfrecord-00000-of-00001"
        count = 0
        with path.open("wb") as file:
            for name, wnid, data in images:
                label = dataset.class_ids.index(wnid)
                values = {"image": data, "label": label, "file_name": name.encode()}
                file.write(forms.record(forms.example(values)))
                count += 1
        splits.append({"name": split, "shardLengths": [str(count)]})
    info = {"name": "set", "fileFormat": "tfrecord", "splits": splits}
    (root / "dataset_info.json").write_text(json.dumps(info))
    text = json.dumps({"featuresDict": {"features": features}})
    (root / "features.json").write_text(text)
    (root / "label.labels.txt").write_text("\n".join(dataset.class_ids) + "\n")


def write_webdataset(root, dataset):
    for split, images in photos(dataset):
        for number, part in enumerate(shards(images)):
            files = {}
            for name, wnid, data in part:
                files[name] = data
                files[f"{name.removesuffix('.JPEG')}.cls"] = wnid.encode()
            path = root / f"set-{split}-{number:06d}.tar"
            path.write_bytes(archives.tar(files))


WRITERS = {
    "kaggle": write_kaggle,
    "class_folders": write_class_folders,
    "parquet": write_parquet,
    "tfrecord": write_tfrecord,
    "webdataset": write_webdataset,
}


def write_forms(work, originals, repeats):
    """The folder of each form."""
    roots = {"archives": work / f"archives{repeats}"}
    preparing.write_archives(roots["archives"], originals, repeats)
    dataset = registry.open_dataset(
        source="imagenet",
        path=str(roots["archives"]),
        size=preparing.SIZE,
        validation_fraction=0.1,
    )
    for form, write in WRITERS.items():
        roots[form] = work / f"{form}{repeats}"
        if not roots[form].exists():
            part = work / f"{form}{repeats}.part"
            shutil.rmtree(part, ignore_errors=True)
            part.mkdir()
            write(part, dataset)
            part.rename(roots[form])
    return roots


def digest(folder):
    """A checksum of a prepared set's files and of its manifest but for its source."""
    found = hashlib.sha256()
    for path in sorted(folder.iterdir()):
        data = path.read_bytes()
        if path.name == "dataset.json":
            content = json.loads(data)
            del content["source"]
            data = json.dumps(content, sort_keys=True).encode()
        found.update(path.name.encode() + data)
    return found.hexdigest()


def killed_and_continued(root, source, output):
    """The checksum of a set whose preparation was killed and continued, and how many
    shards it had."""
    shutil.rmtree(output, ignore_errors=True)
    notes = output.with_name(output.name + ".unfinished") / "notes"
    command = [sys.executable, "-m", "alexnet_jax.prepare", f"--source={source}"]
    command += [f"--input={root}", f"--output={output}", f"--size={preparing.SIZE}"]
    quiet = subprocess.DEVNULL
    process = subprocess.Popen(
        command, cwd=harness.ROOT, start_new_session=True, stdout=quiet, stderr=quiet
    )
    while process.poll() is None and len(list(notes.glob("*.json"))) < 2:
        time.sleep(0.05)
    kept = len(list(notes.glob("*.json")))
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    subprocess.run(command, cwd=harness.ROOT, check=True, stdout=quiet, stderr=quiet)
    return digest(output), kept


def cpu():
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("--originals", type=Path, required=True, help="folder of images")
    add("--work", type=Path, required=True, help="folder for the forms")
    add("--output", type=Path, help="folder for the raw results")
    add("--repeats", type=int, default=19, help="of each image in training")
    add("--rounds", type=int, default=7)
    given = parser.parse_args()
    given.work.mkdir(parents=True, exist_ok=True)
    originals = sorted(file for file in given.originals.iterdir() if file.is_file())
    roots = write_forms(given.work, originals, given.repeats)
    tenth = write_forms(given.work, originals, max(1, given.repeats // 10))
    prepared = given.work / "prepared"
    seconds_of_cpu = {form: [] for form in roots}
    digests = {}

    def side(form):
        def measure():
            before = cpu()
            seconds, result, _ = preparing.prepare(
                roots[form], prepared, source=SOURCES[form]
            )
            seconds_of_cpu[form].append(cpu() - before)
            digests[form] = digest(prepared)
            return (result["train"] + result["validation"]) / seconds

        return measure

    measured = harness.in_turn({form: side(form) for form in roots}, given.rounds)
    memory: dict[str, dict[str, int]] = {}
    killed = {}
    for form, source in SOURCES.items():
        memory[form] = {
            part: preparing.prepare(of[form], prepared, True, source)[2]
            for part, of in (("tenth", tenth), ("all", roots))
        }
        killed[form] = killed_and_continued(roots[form], source, prepared)
        said = {"memory": memory[form], "same": killed[form][0] == digests["archives"]}
        print(f"{form}: {json.dumps(said)}", file=sys.stderr)
    ratios = {
        form: harness.ratio(measured, form, "archives")
        for form in roots
        if form != "archives"
    }
    least = min(ratios, key=lambda form: ratios[form]["median"])
    cpu_medians = {form: statistics.median(s) for form, s in seconds_of_cpu.items()}
    wanted = digests["archives"]
    result = {
        "benchmark": "preparing_forms",
        "unit": "images per second",
        "images": len(originals) * (given.repeats + 1),
        "medians": harness.medians(measured),
        "ratio": ratios[least]["median"],
        "ratios": ratios,
        "cpu_seconds": cpu_medians,
        "cpu_ratio": min(
            cpu_medians["archives"] / cpu_medians[form] for form in ratios
        ),
        "peak_memory": memory,
        "same_bytes": all(found == wanted for found in digests.values()),
        "killed_and_continued": {
            form: {"shards_kept": kept, "same_bytes": found == wanted}
            for form, (found, kept) in killed.items()
        },
        "rounds": measured,
        **harness.machine("simplejpeg", "pillow", "numpy", "array_record", "pyarrow"),
    }
    harness.write(result, given.output)


if __name__ == "__main__":
    main()
