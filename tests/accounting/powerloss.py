"""powerloss: what was written since the last fsync becomes one of what it may be, in the files that a tracer knows."""
import os
import random

import tape
from image import PAGE, SECTOR


def tell_torn(writer, image, changed):
    """Sectors that now stand behind a header that they were not written under."""
    for page in sorted({s * SECTOR // PAGE for s in changed}):
        first = page * PAGE // SECTOR
        header = image.header(first)
        # what was not written since the last fsync belongs to the header that was durable
        durable = image.dirty[first][0][2] if first in image.dirty else header
        for sector in range(first, first + PAGE // SECTOR):
            if sector in changed:
                under = changed[sector][2]
            else:
                under = image.dirty[sector][-1][2] if sector in image.dirty else durable
            if under != header:
                start = sector * SECTOR
                writer.put(header, start % PAGE, image.data[start:start + SECTOR], tape.TORN)


def tear(tracer, seed, mode):
    """A power loss: sectors written since the last fsync become one of what they may be."""
    rng = random.Random(seed)
    torn = {"sectors": 0, "changed": 0, "names": 0}
    for path, image in sorted(tracer.files.items()):
        if not image.dirty:
            continue
        torn["sectors"] += len(image.dirty)
        whole = {}
        changed = {}
        middle = sorted(image.dirty)[len(image.dirty) // 2]
        for sector in sorted(image.dirty):
            versions = image.dirty[sector]
            if mode == "none":
                pick = versions[0]
            elif mode == "page":  # whole 4 KiB blocks of the device
                if sector // 8 not in whole:
                    whole[sector // 8] = rng.random() < 0.5
                pick = versions[-1] if whole[sector // 8] else versions[0]
            elif mode == "tail":  # what comes later arrived, what comes first did not
                pick = versions[-1] if sector > middle else versions[0]
            elif mode == "head":
                pick = versions[-1] if sector <= middle else versions[0]
            else:  # "random": each sector on its own, any state it was in
                pick = rng.choice(versions)
            if pick != versions[-1]:
                changed[sector] = pick
        if not changed:
            continue
        torn["changed"] += len(changed)
        for sector, pick in changed.items():
            start = sector * SECTOR
            size = min(SECTOR, len(image.data) - start)
            image.data[start:start + size] = pick[1][:size]
        with open(path, "r+b") as f:
            f.write(image.data)
        if tape.WAL_NAME.fullmatch(os.path.basename(path)):
            tell_torn(tracer.writer, image, changed)
    # names of other files than WAL's (the journal): those changed since the directory's fsync may be as before
    for path, states in sorted(tracer.history.items()):
        if tape.WAL_NAME.fullmatch(os.path.basename(path)) or os.path.dirname(path) != tracer.wal:
            continue
        pick = rng.choice(states)[1]
        if pick is tracer.files.get(path):
            continue
        torn["names"] += 1
        if pick is None:
            os.unlink(path)
        else:
            with open(path, "wb") as f:
                f.write(pick.data)
    return torn
