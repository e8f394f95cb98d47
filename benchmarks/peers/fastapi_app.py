"""uvicorn --workers 2 benchmarks.peers.fastapi_app:app

FastAPI as its documentation puts it into production: uvicorn[standard] (uvloop, httptools) with a worker process for
every core (https://fastapi.tiangolo.com/deployment/server-workers/).
"""

from typing import Any

from fastapi import FastAPI, Request

from benchmarks.peers.common import DigitModel, decode_body, respond

app = FastAPI()
model = DigitModel()


# async, though it computes: a plain `def` runs in a pool of threads and is slower, by two thirds with 8 connections.
@app.post("/predictions/digits")
async def predict(request: Request) -> dict[str, Any]:
    return respond(model.predict_images(decode_body(await request.body(), request.headers["content-type"])))
