#!/usr/bin/env python3
"""Writes the Grafana dashboards: helm/holdfast/files/dashboards/*.json.

    deploy/grafana/dashboards.py            writes them
    deploy/grafana/dashboards.py --check    says which differ from what it would write, exit code 1 if any does

The panels are below, one dashboard a function. A test runs all their expressions against a live cluster.
"""

import json
import sys
from pathlib import Path

FOLDER = Path(__file__).resolve().parents[2] / "helm/holdfast/files/dashboards"
SOURCE = {"type": "prometheus", "uid": "${datasource}"}
# `namespace` is a label of Kubernetes; elsewhere there is none, and ".*" matches that, too.
WHERE = 'namespace=~"$namespace", job=~"$job", instance=~"$instance"'
COLUMNS = 24

GREEN, YELLOW, RED = "green", "yellow", "red"


# --- expressions


def of(metric, *matchers):
    """The series of a metric that the variables select."""
    return f"{metric}{{{', '.join((WHERE, *matchers))}}}"


def rate(metric, *matchers):
    return f"rate({of(metric, *matchers)}[$__rate_interval])"


def summed(expression, *labels):
    return f"sum by ({', '.join(labels)}) ({expression})" if labels else f"sum({expression})"


def quantile(q, metric, *labels):
    return f"histogram_quantile({q}, {summed(rate(metric + '_bucket'), *labels, 'le')})"


def mean(metric, *labels):
    return f"{summed(rate(metric + '_sum'), *labels)} / {summed(rate(metric + '_count'), *labels)}"


def elected(metric):
    """What the elected meta-service says; another one keeps what it knew last."""
    return f"{of(metric)} and on (namespace, job, instance) {of('holdfast_meta_elected')} == 1"


# --- panels


def target(expression, legend="", instant=False):
    one = {"datasource": SOURCE, "editorMode": "code", "expr": expression, "legendFormat": legend or "__auto"}
    one["instant" if instant else "range"] = True
    return one


def steps(*pairs):
    """Colours from values on: (None, GREEN), (1, RED)."""
    return {"mode": "absolute", "steps": [{"color": color, "value": value} for value, color in pairs]}


def panel(kind, title, description, targets, unit, width, height, options, custom=None, thresholds=None, more=None):
    defaults = {"unit": unit, "color": {"mode": "thresholds" if kind == "stat" else "palette-classic"}, "mappings": []}
    defaults["thresholds"] = thresholds or steps((None, GREEN))
    if custom:
        defaults["custom"] = custom
    defaults.update(more or {})
    for at, one in enumerate(targets):
        one["refId"] = chr(ord("A") + at)
    return {
        "type": kind,
        "title": title,
        "description": description,
        "datasource": SOURCE,
        "gridPos": {"w": width, "h": height},
        "fieldConfig": {"defaults": defaults, "overrides": []},
        "options": options,
        "targets": targets,
    }


def stat(title, description, expression, unit="none", thresholds=None, width=4, mappings=None):
    options = {
        "colorMode": "value",
        "graphMode": "area",
        "justifyMode": "auto",
        "orientation": "auto",
        "reduceOptions": {"calcs": ["lastNotNull"], "fields": "", "values": False},
        "textMode": "auto",
    }
    more = {"noValue": "no data"}
    if mappings:
        more["mappings"] = [{"type": "value", "options": {str(k): {"text": v} for k, v in mappings.items()}}]
    return panel("stat", title, description, [target(expression)], unit, width, 4, options, None, thresholds, more)


def graph(title, description, targets, unit="short", axis="", width=8, stack=False, least=0, thresholds=None, log=False):
    custom = {
        "drawStyle": "line",
        "lineInterpolation": "linear",
        "lineWidth": 1,
        "fillOpacity": 25 if stack else 5,
        "showPoints": "never",
        "spanNulls": False,
        "axisLabel": axis,
        "stacking": {"mode": "normal" if stack else "none", "group": "A"},
        "scaleDistribution": {"type": "log", "log": 10} if log else {"type": "linear"},
        "thresholdsStyle": {"mode": "line" if thresholds else "off"},
    }
    options = {
        "legend": {"displayMode": "list", "placement": "bottom", "showLegend": True, "calcs": []},
        "tooltip": {"mode": "multi", "sort": "desc"},
    }
    more = {} if least is None or log else {"min": least}
    return panel("timeseries", title, description, targets, unit, width, 8, options, custom, thresholds, more)


def states(title, description, targets, colours, width=12, height=8):
    options = {
        "alignValue": "left",
        "legend": {"displayMode": "list", "placement": "bottom", "showLegend": True},
        "mergeValues": True,
        "rowHeight": 0.85,
        "showValue": "never",
        "tooltip": {"mode": "single", "sort": "none"},
    }
    mappings = [
        {"type": "value", "options": {str(value): {"text": text, "color": color, "index": at}}}
        for at, (value, text, color) in enumerate(colours)
    ]
    custom = {"fillOpacity": 80, "lineWidth": 0}
    return panel("state-timeline", title, description, targets, "none", width, height, options, custom, None, {"mappings": mappings})


def table(title, description, targets, hidden, names=None, width=12, height=8):
    options = {"cellHeight": "sm", "showHeader": True, "footer": {"show": False}}
    for one in targets:
        one["format"] = "table"
    one = panel("table", title, description, targets, "none", width, height, options, {"align": "auto", "filterable": True})
    one["transformations"] = [
        {"id": "organize", "options": {"excludeByName": {name: True for name in hidden}, "renameByName": names or {}}}
    ]
    return one


def row(title):
    return {"type": "row", "title": title, "collapsed": False, "panels": [], "gridPos": {"w": COLUMNS, "h": 1}}


# --- dashboards


def variable(name, label, query):
    return {
        "name": name,
        "label": label,
        "type": "query",
        "datasource": SOURCE,
        "definition": query,
        "query": {"query": query, "refId": "StandardVariableQuery"},
        "refresh": 2,
        "sort": 1,
        "multi": True,
        "includeAll": True,
        "allValue": ".*",
        "current": {"selected": True, "text": ["All"], "value": ["$__all"]},
    }


def dashboard(name, title, description, metric, panels):
    """`metric` is one that every process which is to be chosen from has."""
    x = y = tallest = 0
    for number, one in enumerate(panels, 1):
        place = one["gridPos"]
        if x + place["w"] > COLUMNS:
            x, y, tallest = 0, y + tallest, 0
        place["x"], place["y"] = x, y
        x, tallest = x + place["w"], max(tallest, place["h"])
        one["id"] = number
    among = f'{metric}{{namespace=~"$namespace"}}'
    chosen = f'{metric}{{namespace=~"$namespace", job=~"$job"}}'
    datasource = {"name": "datasource", "label": "Data source", "type": "datasource", "query": "prometheus", "refresh": 1}
    return name, {
        "uid": f"holdfast-{name}",
        "title": f"Holdfast / {title}",
        "description": description,
        "tags": ["holdfast"],
        "schemaVersion": 39,
        "version": 1,
        "editable": True,
        "graphTooltip": 1,
        "refresh": "30s",
        "time": {"from": "now-1h", "to": "now"},
        "timezone": "",
        "links": [
            {"title": "Holdfast", "type": "dashboards", "tags": ["holdfast"], "keepTime": True, "includeVars": False}
        ],
        "annotations": {"list": []},
        "templating": {
            "list": [
                datasource,
                variable("namespace", "Namespace", f"label_values({metric}, namespace)"),
                variable("job", "Job", f"label_values({among}, job)"),
                variable("instance", "Process", f"label_values({chosen}, instance)"),
            ]
        },
        "panels": panels,
    }


def process_panels():
    return [
        row("Processes"),
        graph(
            "CPU",
            "Cores that each process uses.",
            [target(rate("process_cpu_seconds_total"), "{{instance}}")],
            axis="cores",
        ),
        graph(
            "Memory",
            "Resident memory of each process. A process that is killed for memory shows up as a gap and a restart.",
            [target(of("process_resident_memory_bytes"), "{{instance}}")],
            "bytes",
        ),
        graph(
            "Open files and sockets",
            "Near the limit (LimitNOFILE, ulimit) a gateway takes no more clients.",
            [target(of("process_open_fds"), "{{instance}}"), target(of("process_max_fds"), "{{instance}} limit")],
            log=True,
        ),
    ]


def overview():
    bad_from_one = steps((None, GREEN), (1, RED))
    warn_from_one = steps((None, GREEN), (1, YELLOW))
    good_from_one = steps((None, RED), (1, GREEN))
    received = summed(rate("holdfast_gateway_messages_received_total"), "qos")
    sent = summed(rate("holdfast_gateway_messages_sent_total"), "qos")
    panels = [
        row("Is it well?"),
        stat(
            "Gateways up",
            "Gateways that the elected meta-service hears of. None: no client can connect.",
            elected("holdfast_meta_gateways_up"),
            thresholds=good_from_one,
        ),
        stat(
            "Sites down",
            "Storage nodes that are not heard of. Their shards have one replica less until they return or are replaced.",
            elected("holdfast_meta_sites_down"),
            thresholds=warn_from_one,
        ),
        stat(
            "Shards without leader",
            "Clients whose sessions live there can neither connect nor publish durable messages.",
            elected("holdfast_meta_shards_without_leader"),
            thresholds=bad_from_one,
        ),
        stat(
            "Shards under-replicated",
            "Shards with fewer whole replicas than the replication factor.",
            elected("holdfast_meta_shards_under_replicated"),
            thresholds=warn_from_one,
        ),
        stat(
            "Meta-services elected",
            "One steers the cluster. None: nothing is placed, replaced or administered; clients go on.",
            summed(of("holdfast_meta_elected")),
            thresholds=good_from_one,
        ),
        stat(
            "Dropped unread",
            "Messages that were removed in the time shown before the sessions that wanted them had read them.",
            f"sum(increase({of('holdfast_messages_lost_unread_total')}[$__range])) or vector(0)",
            thresholds=bad_from_one,
        ),
        row("Traffic"),
        graph(
            "Messages from clients",
            "PUBLISH packets that gateways received, by QoS.",
            [target(received, "QoS {{qos}}")],
            axis="messages/s",
            stack=True,
        ),
        graph(
            "Messages to clients",
            "PUBLISH packets that gateways sent, by the QoS that they were sent with.",
            [target(sent, "QoS {{qos}}")],
            axis="messages/s",
            stack=True,
        ),
        graph(
            "Publishes refused",
            "Durable publishes that got no acknowledgement or a refusing one, by reason. A few while leaders change are usual.",
            [target(summed(rate("holdfast_gateway_publishes_refused_total"), "reason"), "{{reason}}")],
            axis="messages/s",
            stack=True,
        ),
        graph(
            "Acknowledging a publish",
            "From the reading of a QoS 1 or 2 PUBLISH to the writing of its PUBACK or PUBREC. All gateways.",
            [
                target(quantile(0.5, "holdfast_gateway_publish_seconds"), "half of them within"),
                target(quantile(0.99, "holdfast_gateway_publish_seconds"), "99 % of them within"),
            ],
            "s",
        ),
        graph(
            "Age when delivered",
            "Age of a message when it is sent to a subscriber. A session that catches up after an absence raises it.",
            [
                target(quantile(0.5, "holdfast_gateway_delivery_seconds"), "half of them within"),
                target(quantile(0.99, "holdfast_gateway_delivery_seconds"), "99 % of them within"),
            ],
            "s",
        ),
        graph(
            "Clients",
            "Connected clients by gateway.",
            [target(of("holdfast_gateway_connections"), "{{instance}}")],
            stack=True,
        ),
        row("Storage and control"),
        graph(
            "Sites by state",
            "As the elected meta-service sees them. Draining ones are being emptied, lost ones have been replaced.",
            [target(elected("holdfast_meta_sites"), "{{state}}")],
            stack=True,
        ),
        graph(
            "Disk",
            "Used by each site's data, as a share of its high mark. At 1 publishes are refused and old data is dropped.",
            [
                target(
                    f"{of('holdfast_storage_disk_used_bytes')} / {of('holdfast_storage_disk_high_bytes')}",
                    "{{instance}}",
                )
            ],
            "percentunit",
            thresholds=steps((None, GREEN), (1, RED)),
        ),
        graph(
            "Replicas on their way",
            "Shards whose replicas move, and bytes of history that replicas still lack.",
            [
                target(elected("holdfast_meta_transitions"), "shards that move"),
                target(elected("holdfast_meta_missing_bytes"), "bytes missing"),
            ],
            log=True,
        ),
        states(
            "Elected meta-service",
            "Which meta-service was elected when. Gaps without any colour: nobody.",
            [target(of("holdfast_meta_elected"), "{{instance}}")],
            [(0, "standby", "#808080"), (1, "elected", GREEN)],
            height=6,
        ),
        states(
            "Metadata store",
            "Whether each meta-service can use etcd, or sled.",
            [target(of("holdfast_meta_store_up"), "{{instance}}")],
            [(0, "unreachable", RED), (1, "up", GREEN)],
            height=6,
        ),
        table(
            "Alerts that fire",
            "Of the rules in alerts.yaml, if this Prometheus evaluates them.",
            [target('ALERTS{alertname=~"Holdfast.*", alertstate="firing", namespace=~"$namespace"}', instant=True)],
            ["Time", "Value", "__name__", "alertstate"],
        ),
        table(
            "Versions",
            "What runs. Several versions during an upgrade are fine.",
            [target(f"count by (version, job) ({of('holdfast_build_info')})", instant=True)],
            ["Time"],
            {"Value": "processes"},
        ),
    ]
    description = "Is the cluster well, what goes through it, what does it move? Begin here."
    return dashboard("overview", "Overview", description, "holdfast_build_info", panels + process_panels())


def gateways():
    seconds = "holdfast_gateway_publish_durable_seconds"
    per_reason = [
        (
            "Publishes refused",
            "Durable publishes that failed, by reason; MQTT 5 clients get a reason code, those of 3.1.1 no answer.",
            "holdfast_gateway_publishes_refused_total",
            "messages/s",
        ),
        (
            "Messages dropped",
            "Messages for connected sessions that were not delivered, by reason.",
            "holdfast_gateway_messages_dropped_total",
            "messages/s",
        ),
        (
            "Clients refused",
            "Before or by CONNACK, by reason.",
            "holdfast_gateway_connects_refused_total",
            "connections/s",
        ),
        (
            "Connections closed",
            "By the gateway, by reason.",
            "holdfast_gateway_connections_closed_total",
            "connections/s",
        ),
    ]
    panels = [
        row("Clients"),
        graph(
            "Connections",
            "Connected clients, those in their handshake included.",
            [target(of("holdfast_gateway_connections"), "{{instance}}")],
            stack=True,
        ),
        graph(
            "Sessions",
            "Sessions that gateways own now: durable ones outlive their connection.",
            [target(summed(of("holdfast_gateway_sessions"), "kind"), "{{kind}}")],
            stack=True,
        ),
        graph(
            "Connects",
            "Clients that were accepted. Many for few connections: clients that do not stay.",
            [target(summed(rate("holdfast_gateway_connects_accepted_total"), "instance", "protocol"), "{{instance}} MQTT {{protocol}}")],
            axis="connects/s",
            stack=True,
        ),
        graph(
            "Subscriptions",
            "Of connected sessions.",
            [target(of("holdfast_gateway_subscriptions"), "{{instance}}")],
            stack=True,
        ),
        graph(
            "Take-overs",
            "Sessions that came from another connection of the same client: roaming clients, or two with one client id.",
            [target(rate("holdfast_gateway_take_overs_total"), "{{instance}}")],
            axis="sessions/s",
        ),
        row("Messages"),
        graph(
            "Received",
            "PUBLISH packets from clients.",
            [target(summed(rate("holdfast_gateway_messages_received_total"), "instance", "qos"), "{{instance}} QoS {{qos}}")],
            axis="messages/s",
            stack=True,
        ),
        graph(
            "Sent",
            "PUBLISH packets to clients.",
            [target(summed(rate("holdfast_gateway_messages_sent_total"), "instance", "qos"), "{{instance}} QoS {{qos}}")],
            axis="messages/s",
            stack=True,
        ),
        graph(
            "Stored",
            "Publishes that shards have stored for durable subscribers.",
            [target(rate("holdfast_gateway_publishes_stored_total"), "{{instance}}")],
            axis="messages/s",
            stack=True,
        ),
        graph(
            "Acknowledging a publish",
            "From the reading of a QoS 1 or 2 PUBLISH to the writing of its PUBACK or PUBREC, 99 % of them within.",
            [target(quantile(0.99, "holdfast_gateway_publish_seconds", "instance"), "{{instance}}")],
            "s",
        ),
        graph(
            "Of this, waiting for storage",
            "From the first message of a batch to the shard's answer, 99 % of them within.",
            [target(quantile(0.99, seconds, "instance"), "{{instance}}")],
            "s",
        ),
        graph(
            "Age when delivered",
            "Age of a message when it is sent to a subscriber, 99 % of them within.",
            [target(quantile(0.99, "holdfast_gateway_delivery_seconds", "instance"), "{{instance}}")],
            "s",
        ),
        graph(
            "In flight",
            "Messages that were sent to clients and are not acknowledged by them.",
            [target(of("holdfast_gateway_in_flight"), "{{instance}}")],
        ),
        graph(
            "Bytes",
            "Read from clients and written to them.",
            [
                target(rate("holdfast_gateway_received_bytes_total"), "{{instance}} received"),
                target(rate("holdfast_gateway_sent_bytes_total"), "{{instance}} sent"),
            ],
            "Bps",
        ),
        graph(
            "Forwarded",
            "Live messages for regular sessions that came from other gateways.",
            [target(rate("holdfast_gateway_messages_forwarded_total"), "{{instance}}")],
            axis="messages/s",
        ),
        row("What was refused or dropped"),
        *[
            graph(title, what, [target(summed(rate(metric), "instance", "reason"), "{{instance}} {{reason}}")], axis=axis, width=12)
            for title, what, metric, axis in per_reason
        ],
        row("Towards the cluster"),
        graph(
            "Storage nodes reached",
            "Sites with a working link. Fewer than there are: some shards cannot be published to from here.",
            [target(of("holdfast_gateway_links"), "{{instance}}")],
        ),
        graph(
            "Records from tails",
            "Messages that storage nodes pushed for the sessions here, before exact matching.",
            [target(rate("holdfast_gateway_tail_records_total"), "{{instance}}")],
            axis="records/s",
        ),
        graph(
            "Catching up",
            "Messages that sessions read back from shards after an absence.",
            [target(rate("holdfast_gateway_catch_up_records_total"), "{{instance}}")],
            axis="records/s",
        ),
        graph(
            "Durable filters",
            "Filters by which a gateway decides what must be stored.",
            [target(of("holdfast_gateway_durable_filters"), "{{instance}}")],
        ),
        graph(
            "Requests that expired",
            "Questions to shards that got no answer in time.",
            [target(rate("holdfast_gateway_requests_expired_total"), "{{instance}}")],
            axis="requests/s",
        ),
        states(
            "Stores everything",
            "While a gateway has no lease or no complete filter set it stores every QoS 1 and 2 message: safe, but dearer.",
            [target(of("holdfast_gateway_stores_everything"), "{{instance}}")],
            [(0, "no", GREEN), (1, "yes", YELLOW)],
            width=8,
        ),
        graph(
            "Memory per connection",
            "3 to 6 kB are usual where there are many; few connections carry the whole process.",
            [
                target(
                    f"{of('process_resident_memory_bytes')} / ({of('holdfast_gateway_connections')} > 0)",
                    "{{instance}}",
                )
            ],
            "bytes",
            log=True,
        ),
    ]
    description = "Connections, messages and what was refused, by gateway."
    return dashboard("gateways", "Gateways", description, "holdfast_gateway_connections", panels + process_panels())


def storage():
    panels = [
        row("Disk"),
        graph(
            "Used and high mark",
            "Bytes of each site's data. At the mark publishes are refused and the oldest sealed generations are dropped.",
            [
                target(of("holdfast_storage_disk_used_bytes"), "{{instance}} used"),
                target(of("holdfast_storage_disk_high_bytes"), "{{instance}} high mark"),
            ],
            "bytes",
        ),
        graph(
            "By kind",
            "log: not yet in a run; runs: sorted messages; state: session rows and indexes. All sites shown.",
            [target(summed(of("holdfast_storage_disk_bytes"), "kind"), "{{kind}}")],
            "bytes",
            stack=True,
        ),
        graph(
            "Time to the high mark",
            "At the growth of the last hour. Nothing is shown for a disk that does not grow.",
            [
                target(
                    f"({of('holdfast_storage_disk_high_bytes')} - {of('holdfast_storage_disk_used_bytes')})"
                    f" / (deriv({of('holdfast_storage_disk_used_bytes')}[1h]) > 0)",
                    "{{instance}}",
                )
            ],
            "s",
            log=True,
        ),
        graph(
            "Written",
            "To the site log, and to runs: each message once to each.",
            [
                target(rate("holdfast_storage_log_written_bytes_total"), "{{instance}} log"),
                target(rate("holdfast_storage_run_written_bytes_total"), "{{instance}} runs"),
            ],
            "Bps",
        ),
        graph(
            "Sync of the log",
            "One fdatasync, 99 % of them within. Every acknowledgement waits for one on a majority of sites.",
            [target(quantile(0.99, "holdfast_storage_sync_seconds", "instance"), "{{instance}}")],
            "s",
            thresholds=steps((None, GREEN), (0.1, RED)),
        ),
        graph(
            "Damaged files",
            "Files of messages that failed their checksum when they were read; each is fetched again. Must be nothing.",
            [target(f"increase({of('holdfast_storage_damaged_runs_total')}[$__rate_interval])", "{{instance}}")],
        ),
        graph(
            "Generations dropped",
            "Oldest parts of shards that were removed, by reason.",
            [target(summed(rate("holdfast_storage_generations_dropped_total"), "reason"), "{{reason}}")],
            axis="generations/s",
        ),
        row("Shards"),
        graph(
            "Shards led",
            "Leaders do most of the work; they should be spread evenly.",
            [target(of("holdfast_storage_shard_leaders"), "{{instance}}")],
        ),
        graph(
            "Replicas",
            "Replicas on each site, and of these those that are damaged.",
            [
                target(of("holdfast_storage_replicas"), "{{instance}}"),
                target(of("holdfast_storage_replicas_quarantined"), "{{instance}} damaged"),
            ],
        ),
        graph(
            "Entries not applied yet",
            "By site, the shard that is most behind: log index less applied index.",
            [
                target(
                    f"max by (instance) ({of('holdfast_storage_log_index')} - {of('holdfast_storage_applied_index')})",
                    "{{instance}}",
                )
            ],
        ),
        states(
            "Leader of each shard",
            "The site that leads, by shard. A shard without a line in a moment has no leader.",
            [target(of("holdfast_storage_shard_leader") + " == 1", "shard {{shard}}: {{instance}}")],
            [(1, "leads", GREEN)],
            width=24,
            height=12,
        ),
        graph(
            "Messages stored",
            "Positions that each shard gave away, all sites: the rate of its leader.",
            [target(f"max by (shard) ({rate('holdfast_storage_next_position')})", "shard {{shard}}")],
            axis="messages/s",
            stack=True,
        ),
        graph(
            "History to fetch",
            "Bytes of runs that replicas here still lack; they come at shard.fetch_bytes_per_s.",
            [target(of("holdfast_storage_run_missing_bytes"), "{{instance}}")],
            "bytes",
        ),
        graph(
            "Fetched",
            "History that came from other sites.",
            [target(rate("holdfast_storage_run_fetched_bytes_total"), "{{instance}}")],
            "Bps",
        ),
        row("Work"),
        graph(
            "Commit",
            "From a request's arrival at the leader to its entry's answer, 99 % of them within.",
            [target(quantile(0.99, "holdfast_storage_commit_seconds", "instance"), "{{instance}}")],
            "s",
        ),
        graph(
            "Requests in an entry",
            "On average. Many: the log syncs seldom for much, which is cheap.",
            [target(mean("holdfast_storage_entry_requests", "instance"), "{{instance}}")],
        ),
        graph(
            "Checkpoints",
            "Longest usual time of a checkpoint: 99 % of them within.",
            [target(quantile(0.99, "holdfast_storage_checkpoint_seconds", "instance"), "{{instance}}")],
            "s",
        ),
        graph(
            "Requests refused",
            "By reason: not_leader while leaders change is usual.",
            [target(summed(rate("holdfast_storage_refused_total"), "instance", "reason"), "{{instance}} {{reason}}")],
            axis="requests/s",
        ),
        graph(
            "Pushed and read",
            "To gateways: on tails to live sessions, and answers to the reads of those that catch up.",
            [
                target(rate("holdfast_storage_tail_pushed_bytes_total"), "{{instance}} tails"),
                target(rate("holdfast_storage_read_bytes_total"), "{{instance}} reads"),
            ],
            "Bps",
        ),
        graph(
            "Clock against the others",
            "How far the median of all sites' clocks is ahead. Beyond 10 s a site expires and drops nothing.",
            [target(of("holdfast_storage_clock_skew_seconds"), "{{instance}}")],
            "s",
            least=None,
        ),
    ]
    description = "Disks, shards and work of the storage nodes."
    return dashboard("storage", "Storage", description, "holdfast_storage_replicas", panels + process_panels())


def sessions():
    panels = [
        row("Stored sessions"),
        graph(
            "Sessions",
            "Sessions of the shards that each site leads: all together are all of the cluster.",
            [target(of("holdfast_storage_sessions"), "{{instance}}")],
            stack=True,
        ),
        graph(
            "Connected",
            "Of these, those that a gateway owns now.",
            [target(of("holdfast_storage_sessions_connected"), "{{instance}}")],
            stack=True,
        ),
        graph(
            "Changes",
            "Changes of sessions that shards told the elected meta-service: connects, disconnects, subscriptions, ends.",
            [target(rate("holdfast_meta_session_changes_total"), "{{instance}}")],
            axis="changes/s",
        ),
        row("What they have not read"),
        graph(
            "Most unread messages",
            "By home shard, of the session that is most behind. `holdfast sessions list --lag-min N` names it.",
            [target(f"max by (shard) ({of('holdfast_storage_shard_unread_messages')})", "shard {{shard}}")],
            axis="messages",
            width=12,
        ),
        graph(
            "Oldest unread message",
            "By home shard. Retention by time removes it at shard.message_retention_ms (7 days unless set).",
            [target(f"max by (shard) ({of('holdfast_storage_shard_unread_age_seconds')})", "shard {{shard}}")],
            "s",
            width=12,
        ),
        graph(
            "Dropped unread",
            "Messages that retention removed before the sessions that wanted them had read them. Must be nothing.",
            [target(rate("holdfast_messages_lost_unread_total"), "{{instance}}")],
            axis="messages/s",
        ),
        graph(
            "Sessions looked at for retention",
            "Before a generation goes, its sessions are walked over; a walk that never ends holds it up.",
            [target(rate("holdfast_storage_sessions_walked_total"), "{{instance}}")],
            axis="sessions/s",
        ),
        graph(
            "Dropped for connected sessions",
            "By gateways, by reason: too large for the client, expired, its queue full.",
            [target(summed(rate("holdfast_gateway_messages_dropped_total"), "reason"), "{{reason}}")],
            axis="messages/s",
        ),
        row("Subscriptions"),
        graph(
            "Durable filters",
            "Filters of durable sessions that gateways route by, after levels of many values became `+`.",
            [target(elected("holdfast_meta_durable_filters"), "{{instance}}")],
        ),
        graph(
            "Making a filter durable",
            "From a gateway's request to the answer, which waits for all other gateways: 99 % of them within.",
            [target(quantile(0.99, "holdfast_meta_cover_seconds"), "99 % within")],
            "s",
        ),
        graph(
            "Filter versions behind",
            "Versions of the set that some gateway has not acknowledged: new subscriptions wait for it.",
            [target(elected("holdfast_meta_durable_filter_versions_behind"), "{{instance}}")],
        ),
    ]
    description = "Stored sessions, how far they are behind, and what they subscribe to."
    return dashboard("sessions", "Sessions", description, "holdfast_build_info", panels)


def main():
    check = sys.argv[1:] == ["--check"]
    if sys.argv[1:] and not check:
        sys.exit(__doc__)
    stale = []
    for name, content in (overview(), gateways(), storage(), sessions()):
        path = FOLDER / f"{name}.json"
        text = json.dumps(content, indent=2, ensure_ascii=False) + "\n"
        if check:
            if not path.is_file() or path.read_text(encoding="utf-8") != text:
                stale.append(path.name)
        else:
            FOLDER.mkdir(parents=True, exist_ok=True)
            path.write_text(text, encoding="utf-8")
    if stale:
        sys.exit(f"not as deploy/grafana/dashboards.py writes them: {', '.join(stale)}")


main()
