"""What schemathesis has to know of a body of JSON lines: it is text."""

import schemathesis


@schemathesis.serializer("application/x-ndjson")
def as_it_is(ctx: schemathesis.SerializationContext, value: object) -> bytes:
    return str(value).encode("utf-8", "surrogatepass")
