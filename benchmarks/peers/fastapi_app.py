"""Peer: FastAPI under uvicorn[standard] (uvloop, httptools), as its documentation recommends for production.

uvicorn --workers 2 benchmarks.peers.fastapi_app:app
There is one worker process per core (https://fastapi.tiangolo.com/deployment/server-workers/).
"""

from typing import Any

from fastapi import FastAPI, Request

from benchmarks.peers.common import DigitModel, decode_body, render_response

app = FastAPI()
model = DigitModel()


# async although it blocks: a plain `def` runs in a thread pool, which is slower by two thirds with 8 connections.
@app.post("/predictions/digits")
async def predict(request: Request) -> dict[str, Any]:
    return render_response(model.predict_images(decode_body(await request.body(), request.headers["content-type"])))
