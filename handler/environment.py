"""By which words of the environment a server tells its workers where to log. Light: the supervisor imports it too."""

LOG_PATH, LOG_LEVEL = "DIGITS_REQUEST_LOG", "DIGITS_REQUEST_LOG_LEVEL"
