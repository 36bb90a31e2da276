"""What can go wrong for a user of registry, promotion and serving; a message is a sentence with a way out."""


class ServingError(ValueError):
    """The request cannot be met as things stand; the message says why and what would be right."""


class TrackingUnreachableError(ServingError):
    """The MLflow server does not answer."""


class NotRegisteredError(ServingError):
    """The registry has no such model, version or alias."""


class NoChampionError(NotRegisteredError):
    """The model is registered, but no version has been promoted."""


class ModelRefusedError(ServingError):
    """The files are not what was registered, or do not give the recorded vectors."""


class GateError(ServingError):
    """The candidate did not pass the gate."""


class PortInUseError(ServingError):
    """Somebody listens on the port already."""


class DeploymentError(ServingError):
    """Ray Serve could not bring the version up; what ran before goes on."""


class KeyFileError(ServingError):
    """The file of API keys cannot be read."""


class OpenServiceError(ServingError):
    """A service without keys was to listen beyond this machine."""
