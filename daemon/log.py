"""Log events: what is written, and how.

`noun.happened` with data in keys; JSON on standard error unless that is a terminal.  Error = somebody must act.
Page text is never logged.  The events:

========================  =======  ==============================================================================
service.starting          info     version, instance, configuration file
service.ready             info     the engine has read its warm-up page and the inboxes are watched
service.reloaded          info     a changed configuration is in force; as a warning: what of it needs a restart
service.reload_refused    error    a changed configuration is wrong; nothing has changed
service.draining          info     asked to stop; pages in flight may finish
service.crashed           error    a fault of our own ended it, with the traceback; systemd starts it again
service.stopped           info     the end, with the number of jobs left to resume
service.http_inert        warning  [http] is enabled, which this version does not serve
engine.chosen             info     which engine, and why
engine.card_in_use        info     something else holds much of the card: seconds pass until it is planned with
engine.ready              info     it has read its warm-up page
engine.misread            warning  it did not read its warm-up page right: another model, or damaged weights
engine.died               error    it died, or could not be built anew; with the back-off before the next try
engine.revived            info     it was built anew; with the pages in flight that are tried again
tiles.unshared            warning  no memory to share, with the reason: pages go to the engine by copies, slower
root.adopted              info     an inbox is ours; whether its last owner stopped cleanly
root.paused               warning  nothing is taken from an inbox, with the reason
root.resumed              info     it is well again
root.recovered            info     what earlier processes left, by kind
root.released             info     an inbox that is no longer configured has finished its documents, and is free
root.done_expired         info     originals deleted from done/ after keep_done_days
watcher.rescanned         debug    a scan found changes
watcher.events_lost       warning  no more events for an inbox; the scan goes on alone
file.settled              debug    a file is complete
file.not_claimed          warning  a file could not be taken out of the inbox; it waits
job.claimed               info     a document was taken
job.changed               info     its file was written to after the claim: read anew, uncounted
job.retried               warning  it will run again, with the reason and the attempts so far
job.done                  info     one full line: status, pages, seconds, attempts, reason
job.failed                warning  the same for a document that went to failed/
job.crashed               error    a fault nobody foresaw, with its traceback
page.recognized           debug    one page
page.looked_closer        debug    the figures and tables of one page, in the second pass
page.quarantined          warning  the engine died twice while reading only this page
page.unreadable           warning  a page that was not read as it should; it is marked in the output
export.failed             warning  an output beside the text could not be made, with the traceback
library.warned            warning  what a library logs or warns of by itself
intake.paused             warning  nothing is taken from any inbox, with the reason
intake.resumed            info     it goes on
========================  =======  ==============================================================================
"""

from __future__ import annotations

import logging
import sys
import warnings
from typing import TYPE_CHECKING

import structlog

if TYPE_CHECKING:
    from structlog.typing import Processor


#: Without the local variables, which structlog adds by itself: page text is among them.
_TRACEBACKS = structlog.processors.ExceptionRenderer(structlog.tracebacks.ExceptionDictTransformer(show_locals=False))


def set_up(level: str, *, json: bool | None = None) -> None:
    """Send log events to standard error; `json` None = unless it is a terminal."""
    # Names that are no UTF-8 hold lone surrogates, which a strict stream refuses.
    sys.stderr.reconfigure(errors="backslashreplace")  # type: ignore[union-attr]
    as_json = not sys.stderr.isatty() if json is None else json
    last: list[Processor] = (
        [_TRACEBACKS, structlog.processors.JSONRenderer()]
        if as_json
        else [structlog.dev.ConsoleRenderer(exception_formatter=structlog.dev.plain_traceback)]
    )
    structlog.configure(
        processors=[
            structlog.contextvars.merge_contextvars,
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", utc=True, key="time"),
            *last,
        ],
        wrapper_class=structlog.make_filtering_bound_logger(logging.getLevelNamesMapping()[level.upper()]),
        logger_factory=structlog.WriteLoggerFactory(sys.stderr),
        cache_logger_on_first_use=False,  # a cached logger would escape capture_logs in tests
    )
    logging.basicConfig(level=logging.WARNING, handlers=[_Libraries()], force=True)
    logging.captureWarnings(capture=True)
    # watchdog sets the watch of a folder that is made in a new folder twice, and says so; it changes nothing.
    warnings.filterwarnings("ignore", "Callback with id ", RuntimeWarning)


class _Libraries(logging.Handler):
    """Libraries log through the standard library, whose last resort is plain text on standard error."""

    def emit(self, record: logging.LogRecord) -> None:
        """Pass a record on as an event."""
        structlog.get_logger().warning("library.warned", library=record.name, message=record.getMessage())
