"""Mutates real files and holds what `slices` (cargo example) says of them against pydicom.

    mutate_zoo.py SLICES_BINARY FOLDER [COUNT] [SEED]

Every answer must be pixels or a refusal with a reason that is the file's fault; where pydicom decodes
the same mutated file, pixels agree or ours refused. Exit status 1 otherwise.
"""

import json
import multiprocessing
import random
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from compare_decode import compare

BATCH = 200
FINE = {"ok", "unreadable_image", "unsupported_transfer_syntax", "unsupported_format", "frame_required",
        "frame_out_of_range", "too_large"}


def mutated(data, random_):
    data = bytearray(data)
    # Headers are where lies do harm: half of the changes fall into the first 4 kB.
    for _ in range(random_.choice((1, 1, 2, 4, 16))):
        end = min(len(data), 4096) if random_.random() < 0.5 else len(data)
        at = random_.randrange(132 if end > 132 else 0, end)
        kind = random_.randrange(6)
        if kind == 0:
            data[at] ^= 1 << random_.randrange(8)
        elif kind == 1:
            data[at] = random_.choice((0, 1, 0x7F, 0x80, 0xFF, random_.randrange(256)))
        elif kind == 2:
            data[at : at + 4] = random_.choice((b"\xff\xff\xff\xff", b"\0\0\0\0", b"\xff\xff\xff\x7f"))[: len(data) - at]
        elif kind == 3:
            del data[at : at + random_.choice((1, 2, 64))]
        elif kind == 4:
            data[at:at] = data[at : at + random_.choice((1, 2, 64))]
        else:
            del data[at:]
        if len(data) < 140:
            break
    return bytes(data)


def judged(*arguments):
    """compare() in a process of its own: the reference decoders panic, abort and hang on such files."""
    answers = multiprocessing.SimpleQueue()

    def work():
        # They also allocate whatever a header declares.
        resource.setrlimit(resource.RLIMIT_AS, (3 << 30, 3 << 30))
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        try:
            answers.put(compare(*arguments))
        except BaseException as error:
            answers.put(("extra", f"the reference failed: {type(error).__name__}"))

    process = multiprocessing.get_context("fork").Process(target=work)
    process.start()
    process.join(60)
    if process.is_alive():
        process.kill()
        process.join()
        return "extra", "the reference hangs"
    return answers.get() if not answers.empty() else ("extra", "the reference died")


def main():
    binary, folder, *rest = sys.argv[1:]
    count, seed = int(rest[0]) if rest else 1000, int(rest[1]) if len(rest) > 1 else 1
    random_ = random.Random(seed)
    files = sorted(p for p in Path(folder).rglob("*") if p.is_file() and p.stat().st_size < 2 << 20)
    files = [p for p in files if p.suffix not in (".json", ".raw")]
    counts, wrong, slowest = {}, [], 0.0
    for start in range(0, count, BATCH):
        with tempfile.TemporaryDirectory() as out:
            jobs = []
            for index in range(min(BATCH, count - start)):
                source = random_.choice(files)
                path = Path(out) / f"{start + index}-{source.name}"
                path.write_bytes(mutated(source.read_bytes(), random_))
                jobs.append(path)
            began = time.monotonic()
            command = [binary, out] + [str(p) for p in jobs]
            lines = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout.splitlines()
            slowest = max(slowest, time.monotonic() - began)
            assert len(lines) == len(jobs), (len(lines), len(jobs))
            for index, (path, line) in enumerate(zip(jobs, lines)):
                answer = json.loads(line)
                code = answer["code"]
                counts[code] = counts.get(code, 0) + 1
                if code not in FINE:
                    wrong.append((path.name, line))
                elif code == "ok":
                    verdict, text = judged(path, None, answer, Path(out) / str(index))
                    counts[f"ok, {verdict}"] = counts.get(f"ok, {verdict}", 0) + 1
                    if verdict == "WRONG":
                        wrong.append((path.name, text))
                        print("WRONG", path.name, text, flush=True)
        if (start + BATCH) % 2000 == 0:
            print(start + BATCH, counts, flush=True)
    print(counts, f"slowest batch {slowest:.1f} s")
    for name, text in wrong:
        print("WRONG", name, text)
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
