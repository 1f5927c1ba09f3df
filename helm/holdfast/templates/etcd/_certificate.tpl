{{/* A Certificate of cert-manager: root, component, name, usages, and perhaps dnsNames. */}}
{{- define "holdfast.certificate" -}}
{{- $manager := .root.Values.etcd.tls.certManager -}}
apiVersion: cert-manager.io/v1
kind: Certificate
{{ include "holdfast.metadata" . }}
spec:
  secretName: {{ .name | quote }}
  {{- with .dnsNames }}
  dnsNames:
    {{- toYaml . | nindent 4 }}
  {{- else }}
  commonName: {{ $manager.commonName | quote }}
  {{- end }}
  duration: {{ $manager.duration | quote }}
  renewBefore: {{ $manager.renewBefore | quote }}
  privateKey:
    algorithm: ECDSA
    size: 256
    rotationPolicy: Always
  usages:
    {{- toYaml .usages | nindent 4 }}
  issuerRef:
    name: {{ $manager.issuerRef.name | quote }}
    kind: {{ $manager.issuerRef.kind }}
    group: {{ $manager.issuerRef.group }}
{{- end -}}
