{{/* How a Service's or a pod's metrics are scraped: root, monitor (its section of the values), source (service or pod).
     Dashboards and alerts go by jobs with "holdfast" in their names, and people by names of pods. */}}
{{- define "holdfast.scrape" -}}
{{- $fullname := include "holdfast.fullname" .root -}}
{{- $job := contains "holdfast" $fullname | ternary $fullname (printf "holdfast-%s" $fullname) -}}
port: http
path: /metrics
{{- with .monitor.interval }}
interval: {{ . }}
{{- end }}
{{- with .monitor.scrapeTimeout }}
scrapeTimeout: {{ . }}
{{- end }}
relabelings:
  - sourceLabels: [__meta_kubernetes_{{ .source }}_label_app_kubernetes_io_component]
    targetLabel: job
    replacement: {{ $job }}-$1
  - sourceLabels: [__meta_kubernetes_pod_name]
    targetLabel: instance
  {{- with .monitor.relabelings }}
  {{- toYaml . | nindent 2 }}
  {{- end }}
{{- with .monitor.metricRelabelings }}
metricRelabelings:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- end -}}
