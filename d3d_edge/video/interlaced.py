"""Interlaced video, which OpenCV with an FFmpeg of today hands over without converting it, and without a word.

FFmpeg refuses such a picture, OpenCV does not look at that, and its buffer keeps what was in it: the last picture that
was converted, or whatever the memory held. A picture that stands still looks the same. Only FFmpeg's log tells the two
apart, and its level is set once a process, so another process looks.
"""

from __future__ import annotations

import os
import subprocess
import sys

_LOOK = """
import sys, cv2
capture, at_s = cv2.VideoCapture(sys.argv[1], cv2.CAP_FFMPEG, [cv2.CAP_PROP_N_THREADS, 1]), float(sys.argv[2])
far = at_s > 60
if far:
    capture.set(cv2.CAP_PROP_POS_MSEC, 1e3 * (at_s - 1))
while capture.grab():
    past_s = capture.get(cv2.CAP_PROP_POS_MSEC) / 1e3 - at_s
    if abs(past_s) < 1:
        capture.retrieve()
    elif far and past_s > 1:
        break
"""
"""Converts the pictures of a second before and after a time. It seeks only where that is far, since not every file can
be sought in, and one that was joined of two may have a time twice."""
_PATIENCE_S = 60
_REFUSED = b"Cannot convert interlaced"


def is_refused(address: str, at_s: float) -> bool:
    """Whether FFmpeg refuses to convert pictures around `at_s` of the file at `address`."""
    environment = {**os.environ, "OPENCV_FFMPEG_LOGLEVEL": "16"}  # AV_LOG_ERROR
    command = [sys.executable, "-c", _LOOK, address, str(at_s)]
    try:
        looked = subprocess.run(
            command, env=environment, stdin=subprocess.DEVNULL, capture_output=True, timeout=_PATIENCE_S, check=False
        )
    except subprocess.TimeoutExpired as ended:  # a long video may have been refused at once, and looked through on
        return _REFUSED in (ended.stdout or b"") + (ended.stderr or b"")
    return _REFUSED in looked.stdout + looked.stderr
