"""A process that tokenizes chunks: `python -m sublayer.data.worker`, a line of JSON in and one out for each.

It is started as a program rather than through `multiprocessing`, which would run the caller's own script again in each
process, and leave them behind when the caller is killed.
"""

import json
import os
import queue
import signal
import sys
import threading
import traceback
from dataclasses import asdict
from pathlib import Path
from typing import Any

from sublayer.data.chunks import Chunk
from sublayer.data.split import Split
from sublayer.data.spool import Spool
from sublayer.data.tokenizer import Tokenizer
from sublayer.data.tokenizing import tokenize, write_chunk
from sublayer.errors import RunError
from sublayer.files import explain


def order(spool: Path, split: Split, chunk: Chunk, target: Path) -> str:
    """The line that asks for a chunk.

    Args:
        spool: the file of its text.
        split: decides the sides.
        chunk: what to tokenize.
        target: the file for `write_chunk`.
    """
    return json.dumps({"spool": str(spool), "split": asdict(split), "chunk": asdict(chunk), "target": str(target)})


def main(tokenizer_directory: str) -> None:
    """Serve orders from the standard input until it ends.

    Args:
        tokenizer_directory: as `Tokenizer.save` left it.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches every process of a terminal; the builder decides
    orders: queue.SimpleQueue[str] = queue.SimpleQueue()

    def receive() -> None:
        for line in sys.stdin:
            orders.put(line)
        os._exit(0)  # the builder is done, or was killed: nobody waits for what is being worked on

    threading.Thread(target=receive, daemon=True).start()
    tokenizer = Tokenizer.load(Path(tokenizer_directory))
    spools: dict[str, Spool] = {}
    while True:
        answer = _serve(json.loads(orders.get()), tokenizer, spools)
        print(json.dumps(answer), flush=True)


def _serve(asked: dict[str, Any], tokenizer: Tokenizer, spools: dict[str, Spool]) -> dict[str, str]:
    """Do one order; what went wrong is told rather than raised."""
    path, target = Path(asked["spool"]), Path(asked["target"])
    try:
        spool = spools.setdefault(str(path), Spool(path))
        write_chunk(target, tokenize(spool, Split(**asked["split"]), Chunk(**asked["chunk"]), tokenizer))
    except RunError as error:
        return {"failed": str(error)}
    except OSError as error:
        return {"failed": explain(error, target)}
    except Exception:
        return {"broken": traceback.format_exc()}
    return {}


if __name__ == "__main__":
    main(sys.argv[1])
