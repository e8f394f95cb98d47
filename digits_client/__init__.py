"""Client of the digit service, by URL and token; needs neither torch nor TorchServe nor a checkout."""

from digits_client.client import DigitsClient as DigitsClient
from digits_client.exceptions import ApiError as ApiError
from digits_client.exceptions import DigitsError as DigitsError
from digits_client.exceptions import ImageFileError as ImageFileError
from digits_client.exceptions import NotKeptError as NotKeptError
from digits_client.exceptions import UnreachableError as UnreachableError
from digits_client.management import ManagementClient as ManagementClient
from digits_client.status import StatusClient as StatusClient
from digits_client.transport import Server as Server
from digits_client.transport import find_server as find_server
from digits_client.types import Explanation as Explanation
from digits_client.types import Number as Number
from digits_client.types import NumberDigit as NumberDigit
from digits_client.types import Prediction as Prediction
from digits_client.types import Version as Version
