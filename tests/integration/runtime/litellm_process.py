"""litellm in a process of its own environment: a line of JSON in, [function, arguments], and a line out:
what it returned, as its own types write themselves, or what it raised.
"""

import json
import sys

import litellm

# It prints advice where our lines go.
litellm.suppress_debug_info = True


def outcome(function, arguments):
    try:
        answer = getattr(litellm, function)(**arguments)
        if arguments.get("stream"):
            return {"returned": [chunk.model_dump() for chunk in answer]}
        return {"returned": answer.model_dump()}
    except Exception as error:
        kinds = [kind.__name__ for kind in type(error).__mro__]
        status = getattr(error, "status_code", None)
        return {"raised": kinds, "status": status, "message": str(error)}


for line in sys.stdin:
    print(json.dumps(outcome(*json.loads(line))), flush=True)
