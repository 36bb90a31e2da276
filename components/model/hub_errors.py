"""What a request to a Hugging Face hub can fail by, its own errors and those of the network."""

from httpx2 import HTTPError
from huggingface_hub.errors import HfHubHTTPError, OfflineModeIsEnabled

HUB_ERRORS = (HfHubHTTPError, OfflineModeIsEnabled, HTTPError, OSError)
