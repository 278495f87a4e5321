"""What comes from the hub: which files of which commit, why not if it does not come, and the record of it.

All is asked through `huggingface_hub` and `datasets`, so that HF_HOME, HF_ENDPOINT, HF_TOKEN, HF_HUB_OFFLINE
and proxies mean what their manuals say.
"""
