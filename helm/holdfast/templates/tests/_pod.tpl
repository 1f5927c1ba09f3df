{{/* A pod of `helm test`: root, what, args, credentials. It stays until the next test, for `helm test --logs`. */}}
{{- define "holdfast.testPod" -}}
{{- $tests := .root.Values.tests -}}
{{- $pod := include "holdfast.toolPod" (merge (dict "component" "test" "annotations" $tests.podAnnotations "resources" $tests.resources) .) | fromYaml -}}
apiVersion: v1
kind: Pod
{{ include "holdfast.metadata" (dict "root" .root "component" "test"
    "name" (printf "%s-test-%s" (include "holdfast.fullname" .root) .what)
    "labels" $pod.metadata.labels
    "annotations" (merge (dict "helm.sh/hook" "test" "helm.sh/hook-delete-policy" "before-hook-creation") (get $pod.metadata "annotations" | default dict))) }}
spec:
  activeDeadlineSeconds: {{ int $tests.timeoutSeconds }}
  {{- toYaml $pod.spec | nindent 2 }}
{{- end -}}
