"""The LLMDeployment API: models, condition reasons and the CRD made from them. Pure."""

GROUP = "serving.pagoda.dev"
VERSION = "v1alpha1"
KIND = "LLMDeployment"
PLURAL = "llmdeployments"
API_VERSION = f"{GROUP}/{VERSION}"
