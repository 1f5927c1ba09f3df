{{/* What values.schema.json cannot say. All that is wrong is told at once. */}}
{{- define "holdfast.validate" -}}
{{- $wrong := list -}}
{{- range $part := list "cluster" "config" "grace" "gateway" "storage" "meta" "etcd" "admin" "metrics" "live" "live.etcd" "live.claims" "live.kinds" -}}
{{- $wrong = concat $wrong (include (printf "holdfast.validate.%s" $part) $ | trim | splitList "\n" | compact) -}}
{{- end -}}
{{- if $wrong -}}
{{- fail (printf "\n\nThe values do not fit together:\n  * %s\n" (join "\n  * " $wrong)) -}}
{{- end -}}
{{- end -}}

{{- define "holdfast.validate.cluster" -}}
{{- $total := include "holdfast.storage.total" . | int -}}
{{- $factor := int .Values.cluster.replicationFactor -}}
{{- if not (has $factor (list 1 3 5)) }}
cluster.replicationFactor: {{ $factor }} is not possible: 1, 3 or 5. With an even number as many may fail as with one less.
{{- end }}
{{- if gt $factor $total }}
storage.replicas: {{ $total }} storage nodes cannot hold {{ $factor }} replicas of a shard (cluster.replicationFactor): set storage.replicas to {{ $factor }} or more{{ if .Values.storage.zones }} in all zones together{{ end }}.
{{- end }}
{{- end -}}

{{/* Fields of configs that the chart sets, and what to set instead. */}}
{{- define "holdfast.validate.config" -}}
{{- $all := dict "name" "the pod's name is used" "grpc_listen" "ports are fixed" "http_listen" "ports are fixed" "grpc_advertise" "the pod's address is used" -}}
{{- $own := dict
      "gateway" (merge (dict "mqtt_listen" "ports are fixed, see gateway.service.port" "mqtt_advertise" "use gateway.mqttAdvertise" "meta" "the chart's own is used") $all)
      "storage" (merge (dict "data_dir" "the volume is used" "zone" "use storage.zones" "meta" "the chart's own is used") $all)
      "meta" (merge (dict "data_dir" "the volume is used" "store" "use meta.store" "shards" "use cluster.shards" "replication_factor" "use cluster.replicationFactor" "admin" "use the section admin") $all) -}}
{{- range $component, $fields := $own -}}
{{- $config := get (get $.Values $component) "config" -}}
{{- range $field, $instead := $fields -}}
{{- if hasKey $config $field }}
{{ $component }}.config.{{ $field }}: is set by the chart: {{ $instead }}.
{{- end -}}
{{- end -}}
{{- end -}}
{{- $etcd := get .Values.meta.config "etcd" | default dict -}}
{{- range $field, $instead := dict "endpoints" "etcd.endpoints" "prefix" "etcd.prefix" "user" "etcd.auth.user" "password_file" "etcd.auth" "ca_file" "etcd.tls" "cert_file" "etcd.tls" "key_file" "etcd.tls" -}}
{{- if hasKey $etcd $field }}
meta.config.etcd.{{ $field }}: is set by the chart: use {{ $instead }}.
{{- end -}}
{{- end -}}
{{- if and $etcd (eq .Values.meta.store "sled") }}
meta.config.etcd: is not used with meta.store "sled".
{{- end }}
{{- end -}}

{{- define "holdfast.validate.grace" -}}
{{- $why := dict
      "gateway" "gateway.preStopSeconds + gateway.config.mqtt.drain_timeout_ms + 20 s"
      "storage" "storage.config.drain_timeout_ms + 20 s"
      "meta" "meta.preStopSeconds + 20 s" -}}
{{- range $component, $sum := $why -}}
{{- $least := include (printf "holdfast.%s.leastGrace" $component) $ | int -}}
{{- $given := get (get $.Values $component) "terminationGracePeriodSeconds" -}}
{{- if and $given (lt (int $given) $least) }}
{{ $component }}.terminationGracePeriodSeconds: {{ int $given }} s end the process before it has drained: at least {{ $least }} ({{ $sum }}), or leave it out.
{{- end -}}
{{- end -}}
{{- end -}}

{{- define "holdfast.validate.gateway" -}}
{{- $scaled := .Values.gateway.autoscaling -}}
{{- if $scaled.enabled -}}
{{- if gt (int $scaled.minReplicas) (int $scaled.maxReplicas) }}
gateway.autoscaling.minReplicas: {{ int $scaled.minReplicas }} is more than maxReplicas, {{ int $scaled.maxReplicas }}.
{{- end -}}
{{- if not (or $scaled.targetCPUUtilizationPercentage $scaled.targetMemoryUtilizationPercentage $scaled.metrics) }}
gateway.autoscaling: has nothing to scale by: set targetCPUUtilizationPercentage, targetMemoryUtilizationPercentage or metrics.
{{- end -}}
{{- range $resource, $target := dict "cpu" $scaled.targetCPUUtilizationPercentage "memory" $scaled.targetMemoryUtilizationPercentage -}}
{{- if and $target (not (dig "requests" $resource "" $.Values.gateway.resources)) }}
gateway.resources.requests.{{ $resource }}: is needed, because gateway.autoscaling goes by a percentage of it.
{{- end -}}
{{- end -}}
{{- end -}}
{{- $service := .Values.gateway.service -}}
{{- if and $service.loadBalancerSourceRanges (ne $service.type "LoadBalancer") }}
gateway.service.loadBalancerSourceRanges: protects only a Service of type LoadBalancer, and gateway.service.type is {{ $service.type }}; for others use networkPolicy.mqttFrom.
{{- end -}}
{{- if and $service.nodePort (eq $service.type "ClusterIP") }}
gateway.service.nodePort: a Service of type ClusterIP has none: set gateway.service.type to NodePort or LoadBalancer.
{{- end -}}
{{- if not (regexMatch ":[0-9]+$" (.Values.gateway.mqttAdvertise | default "x:1")) }}
gateway.mqttAdvertise: {{ .Values.gateway.mqttAdvertise }} is not host:port.
{{- end -}}
{{- range $component := list "gateway" "meta" -}}
{{- $update := dig "rollingUpdate" dict (get (get $.Values $component) "updateStrategy") -}}
{{- if and $update (eq (get $update "maxSurge" | toString | trimSuffix "%") "0") (eq (get $update "maxUnavailable" | toString | trimSuffix "%") "0") }}
{{ $component }}.updateStrategy.rollingUpdate: with maxSurge 0 and maxUnavailable 0 no pod can ever be replaced.
{{- end -}}
{{- end -}}
{{- range $component := list "gateway" "storage" "meta" "etcd" -}}
{{- $pdb := get (get $.Values $component) "pdb" -}}
{{- if and $pdb.enabled (eq ($pdb.maxUnavailable | toString | trimSuffix "%") "0") }}
{{ $component }}.pdb.maxUnavailable: with 0 no node can ever be drained: at least 1, or {{ $component }}.pdb.enabled=false.
{{- end -}}
{{- end -}}
{{- end -}}

{{- define "holdfast.validate.storage" -}}
{{- $names := list -}}
{{- range .Values.storage.zones -}}
{{- if has .name $names }}
storage.zones: {{ .name }} is there twice.
{{- end -}}
{{- $names = append $names .name -}}
{{- end -}}
{{- $sets := list -}}
{{- range include "holdfast.storage.sets" . | fromJsonArray -}}
{{- if and (has .name $sets) (eq (len (uniq $names)) (len $names)) }}
storage.zones: {{ .zone }} and another zone would both be {{ .name }}, which has lower-case letters, digits and hyphens alone: two zones need names that differ in these.
{{- end -}}
{{- $sets = append $sets .name -}}
{{- end -}}
{{- $factor := int .Values.cluster.replicationFactor -}}
{{- $away := .Values.storage.pdb.maxUnavailable | toString -}}
{{- if and .Values.storage.pdb.enabled (gt $factor 1) (or (hasSuffix "%" $away) (gt (atoi $away) (div $factor 2 | int))) }}
storage.pdb.maxUnavailable: with {{ $away }} storage nodes away a shard with {{ $factor }} replicas may lose its majority: at most {{ div $factor 2 }}, as a number.
{{- end -}}
{{- end -}}

{{- define "holdfast.validate.meta" -}}
{{- if and (eq .Values.meta.store "sled") (gt (int .Values.meta.replicas) 1) }}
meta.replicas: {{ int .Values.meta.replicas }} meta-services cannot share a sled store, which lies in one volume: set meta.replicas to 1, or meta.store to etcd.
{{- end -}}
{{- end -}}

{{- define "holdfast.validate.etcd" -}}
{{- if eq .Values.meta.store "etcd" -}}
{{- $etcd := .Values.etcd -}}
{{- if and $etcd.tls.enabled (not $etcd.tls.existingSecret) (not $etcd.tls.certManager.enabled) }}
etcd.tls: needs etcd.tls.existingSecret or etcd.tls.certManager.enabled.
{{- end -}}
{{- if and $etcd.tls.enabled $etcd.tls.existingSecret $etcd.tls.certManager.enabled }}
etcd.tls: either existingSecret or certManager, not both.
{{- end -}}
{{- if and $etcd.tls.enabled $etcd.tls.certManager.enabled (not $etcd.tls.certManager.issuerRef.name) }}
etcd.tls.certManager.issuerRef.name: is needed: the issuer that etcd trusts.
{{- end -}}
{{- if ne (empty $etcd.tls.certKey) (empty $etcd.tls.keyKey) }}
etcd.tls: certKey and keyKey go together; both empty means no client certificate.
{{- end -}}
{{- if and $etcd.enabled $etcd.tls.enabled (not $etcd.tls.certManager.enabled) (not $etcd.tls.server.existingSecret) }}
etcd.tls.server.existingSecret: the chart's own etcd needs a certificate, too: give this Secret, or set etcd.tls.certManager.enabled.
{{- end -}}
{{- if and $etcd.enabled $etcd.tls.enabled (not $etcd.tls.certKey) }}
etcd.tls.certKey: the chart's own etcd asks for a client certificate.
{{- end -}}
{{- if and (not $etcd.enabled) $etcd.tls.server.existingSecret }}
etcd.tls.server.existingSecret: is for the chart's own etcd alone, and etcd.enabled is false.
{{- end -}}
{{- if $etcd.enabled -}}
{{- if $etcd.endpoints }}
etcd.endpoints: are those of an etcd of yours, but etcd.enabled runs the chart's own: set etcd.enabled to false, or leave the endpoints out.
{{- end -}}
{{- if not (has (int $etcd.replicas) (list 1 3 5)) }}
etcd.replicas: {{ int $etcd.replicas }} members are not possible: 1, 3 or 5. With an even number as many may fail as with one less.
{{- end -}}
{{- if $etcd.auth.user }}
etcd.auth: the chart's own etcd has no users; use an etcd of yours (etcd.enabled=false, etcd.endpoints).
{{- end -}}
{{- $away := $etcd.pdb.maxUnavailable | toString -}}
{{- if and $etcd.pdb.enabled (gt (int $etcd.replicas) 1) (or (hasSuffix "%" $away) (gt (atoi $away) (div (int $etcd.replicas) 2 | int))) }}
etcd.pdb.maxUnavailable: with {{ $away }} of {{ int $etcd.replicas }} members away etcd may lose its majority: at most {{ div (int $etcd.replicas) 2 }}, as a number.
{{- end -}}
{{- else -}}
{{- if not $etcd.endpoints }}
etcd.endpoints: meta.store is etcd, so say where it is, for example ["http://etcd.infra:2379"], or set etcd.enabled for the chart's own.
{{- end -}}
{{- range $etcd.endpoints -}}
{{- if and $etcd.tls.enabled (not (hasPrefix "https://" .)) }}
etcd.endpoints: {{ . }} is not https://, which etcd.tls.enabled asks for.
{{- else if and (not $etcd.tls.enabled) (hasPrefix "https://" .) }}
etcd.endpoints: {{ . }} needs etcd.tls.enabled and a Secret with its certificate authority.
{{- end -}}
{{- end -}}
{{- if and $.Values.networkPolicy.enabled $.Values.networkPolicy.egress (not $.Values.networkPolicy.extraEgress) }}
networkPolicy.extraEgress: meta-services could not reach your etcd (etcd.endpoints): let them, or set networkPolicy.egress to false.
{{- end -}}
{{- if and $etcd.auth.user (not $etcd.auth.existingSecret) }}
etcd.auth.existingSecret: is needed for the password of user {{ $etcd.auth.user }}.
{{- end -}}
{{- end -}}
{{- else if .Values.etcd.endpoints }}
etcd.endpoints: are not used with meta.store "sled".
{{- end -}}
{{- end -}}

{{- define "holdfast.validate.admin" -}}
{{- $admin := .Values.admin -}}
{{- if and $admin.password $admin.existingSecret }}
admin.password: is not used with admin.existingSecret: give one of them.
{{- end -}}
{{- if and $admin.service.loadBalancerSourceRanges (ne $admin.service.type "LoadBalancer") }}
admin.service.loadBalancerSourceRanges: protects only a Service of type LoadBalancer, and admin.service.type is {{ $admin.service.type }}; for others use networkPolicy.adminFrom.
{{- end -}}
{{- if and $admin.service.nodePort (eq $admin.service.type "ClusterIP") }}
admin.service.nodePort: a Service of type ClusterIP has none: set admin.service.type to NodePort or LoadBalancer.
{{- end -}}
{{- end -}}

{{- define "holdfast.validate.metrics" -}}
{{- if and .Values.metrics.serviceMonitor.enabled .Values.metrics.podMonitor.enabled }}
metrics: serviceMonitor and podMonitor would both scrape every process: enable one of them.
{{- end -}}
{{- end -}}
