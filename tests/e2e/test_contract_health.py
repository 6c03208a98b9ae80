"""Health, metadata, the hooks of Triton's tests, and the details that stand beside a status."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import pytest
import tritonclient.grpc as triton
from google.rpc import error_details_pb2, status_pb2
from tests.e2e.asking import stub_of, tensors, write
from tests.e2e.running import Running, ServerThread, options
from tests.http2.raw import eventually
from tests.server_process import server_process
from tests.transports import TRANSPORTS
from tritonclient.grpc import service_pb2

from penstock_protos.health import HealthCheckRequest, HealthCheckResponse, HealthListResponse
