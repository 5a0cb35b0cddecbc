"""The dashboard's only error handler: it shows an error in plain words, with what to do.

Details go to the log, never to the page.
"""

import re
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

import streamlit as st

from rossmann.dashboard.shared.markdown import escape_markdown, markdown_list
from rossmann.errors import (
    AuthError,
    DataError,
    ErrorDetail,
    ModelUnavailableError,
    RateLimitError,
    RequestError,
    RetryLaterError,
    RossmannError,
    ServiceError,
    SettingsError,
)
from rossmann.logging_config import get_logger

SERVICE_AWAY: Final = (
    "This page looks again every few seconds and goes on by itself. If it lasts, tell whoever "
    "runs the service; the page Home says how it is started."
)
MAX_SHOWN_ERRORS: Final = 10
RETRY_SECONDS: Final = 2
_RETRY_AT: Final = "retry-at"
_PARAMETER_WORDS: Final = {"start": "The date", "until": "The date", "as_of": "The date"}
_TITLES: Final[dict[type[RossmannError], str]] = {
    RateLimitError: "The service was called too often.",
    RetryLaterError: "The prediction service is busy.",
    ServiceError: "The prediction service does not answer.",
    ModelUnavailableError: "No model is in Production yet.",
    AuthError: "The service does not let the dashboard in.",
    DataError: "This file cannot be used.",
    SettingsError: "A setting is wrong.",
}


@contextmanager
def error_boundary() -> Iterator[None]:
    """Show any error of the block as a box with what happened and what to do."""
    try:
        yield
    except RequestError as error:
        errors = markdown_list(map(request_error_words, error.errors[:MAX_SHOWN_ERRORS]))
        st.error(f"**There is no forecast for this.**\n\n{errors}", icon=":material/rule:")
    except (ServiceError, ModelUnavailableError) as error:
        wait = error.seconds if isinstance(error, RetryLaterError) else RETRY_SECONDS
        st.session_state[_RETRY_AT] = time.monotonic() + wait
        get_logger("dashboard").info("service failed: %s", error)
        st.error(
            f"**{escape_markdown(_title(error))}** {SERVICE_AWAY}", icon=":material/cloud_off:"
        )
    except RossmannError as error:
        st.error(
            f"**{escape_markdown(_title(error))}** {escape_markdown(error)}",
            icon=":material/error:",
        )
    except Exception:  # noqa: BLE001 -- the outermost handler of a page: logs and shows the error
        get_logger("dashboard").exception("page failed")
        st.error(
            "**This page cannot be shown.** Something went wrong that should not. Reload the "
            "page; if it stays, the dashboard's log says why.",
            icon=":material/error:",
        )


def retry_is_due() -> bool:
    """Whether the page failed for want of the service, and may ask again by now; true once."""
    due = st.session_state.get(_RETRY_AT)
    if due is None or time.monotonic() < due:
        return False
    del st.session_state[_RETRY_AT]
    return True


def request_error_words(detail: ErrorDetail) -> str:
    """The text of an error, with the names of URL parameters as words of the page."""
    name = str(detail.loc[-1]) if detail.loc else ""
    words = _PARAMETER_WORDS.get(name)
    return re.sub(rf"^{re.escape(name)}\b", words, detail.msg) if words else detail.msg


def _title(error: RossmannError) -> str:
    return next((text for cls, text in _TITLES.items() if isinstance(error, cls)), "It failed.")
