"""The scenario `ingest`: appends, each answered once it is on the disk, and then looked for in the log."""

from array import array

from bench.check import compare, merged, percentiles
from bench.crowd import Metrics, Writers
from bench.http_client import HttpClient
from bench.load import Load
from bench.praisonai import PraisonAI
from bench.sandbox import Sandbox
from bench.targets import Streamer
from bench.usage import machine_cpu
from bench.wire import log_page

MIB = 2**20


def ingest(sandbox: Sandbox, target: Streamer | PraisonAI, load: Load) -> Metrics:
    """Append at a rate, or as much as is answered, and read all of it back."""
    writers = Writers(sandbox, target, load)
    before = target.usage.rss()
    if load.warmup:
        writers.publish(rate=load.rate, seconds=load.warmup, batch=load.batch)
    target.usage.forget_peak()
    cpu, machine = target.usage.cpu(), machine_cpu()
    sent = writers.publish(rate=load.rate, seconds=load.seconds, batch=load.batch)
    used, machine = target.usage.cpu() - cpu, machine_cpu() - machine
    seconds = (sent["ended"] - sent["began"]) / 1e9
    events = sent["sent"] - sent["failed"]
    return {
        "appends": sent["requests"],
        "appends_per_second": round(sent["requests"] / seconds, 1),
        "events": events,
        "events_per_second": round(events / seconds, 1),
        **percentiles(merged([sent["latencies"]])),
        "failed": sent["failed"],
        "waited": sent["waited"],
        **(check_log(sandbox, target, writers) if isinstance(target, Streamer) else count_log(target, writers)),
        "publishers_busy": round(sent["busy"], 3),
        "cpu": round(used / seconds, 3),
        "others": max(round((machine - used - sent["cpu"]) / seconds, 2), 0),
        "cpu_per_append": round(used * 1e6 / max(sent["requests"], 1), 1),
        "cpu_per_event": round(used * 1e6 / max(events, 1), 1),
        "rss_before": round(before / MIB, 1),
        "rss_peak": round(target.usage.peak() / MIB, 1),
    }


def count_log(target: PraisonAI, writers: Writers) -> Metrics:
    """Count what is stored: a peer's events have no numbers."""
    # One was appended before the first that is counted.
    more = target.stored() - 1 - len(writers.acked(0))
    return {"lost": max(-more, 0), "unexpected": max(more, 0)}


def check_log(sandbox: Sandbox, target: Streamer, writers: Writers) -> Metrics:
    """Read every workspace from its beginning: it must hold what was acknowledged, once, in order, without a gap in seq."""
    result = {"lost": 0, "doubled": 0, "out_of_order": 0, "unexpected": 0, "gaps": 0}
    with HttpClient(target.port, target.head) as client:
        for workspace in range(writers.load.workspaces):
            seqs, numbers = array("q"), array("q")
            path = f"/v1/workspaces/{target.workspace}-{workspace}/events?limit=1000"
            after = "&order=asc"
            while page := log_page(client.request(path + after)):
                seqs.extend(page.seqs)
                numbers.extend(page.numbers)
                after = f"&after={page.position}"
                sandbox.tick()
            # The first event of each has a number below zero: it made the workspace.
            wanted = array("q", [workspace - writers.load.workspaces, *writers.acked(workspace)])
            for name, count in compare(wanted.tobytes(), numbers.tobytes())._asdict().items():
                result[name] += count
            result["gaps"] += sum(later != earlier + 1 for earlier, later in zip([0, *seqs], seqs, strict=False))
    return dict(result)
