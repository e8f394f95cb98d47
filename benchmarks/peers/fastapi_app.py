"""uvicorn --app-dir benchmarks/peers --workers 2 fastapi_app:app

FastAPI as its documentation puts it into production: uvicorn[standard] (uvloop, httptools) with a worker process for
each core (https://fastapi.tiangolo.com/deployment/server-workers/).
"""

from typing import Any

import cv2
import torch
from fastapi import FastAPI, Request

from reading import released

torch.set_num_threads(1)  # each worker has one core's work; more threads only fight each other
cv2.setNumThreads(1)
app = FastAPI()
reading = released()


# async, though it computes: a plain `def`, which runs in a pool of threads, answered fewer requests a second, with 8
# connections a third as many.
@app.post("/predictions/digits")
async def predict(request: Request) -> dict[str, Any]:
    return reading.answer(await request.body(), request.headers["content-type"])
