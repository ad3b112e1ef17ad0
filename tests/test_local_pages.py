"""`tracking=trackio`: what its database holds afterwards, that nothing leaves the machine, and that a run outlives it."""

import json
import os
import re
import signal
import subprocess
import sys
import time
import urllib.request
from pathlib import Path

import pytest
from hub_server import HubServer
from refusing import problems_of, said
from running import ROOT, World
from tracked import SETTINGS, Said  # noqa: F401
from wrong_command_lines import WRONG  # noqa: F401

from lexalign import artifacts
