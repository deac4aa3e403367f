"""Webhooks as the services send them: signed, tried again, and on demand lost, late, doubled or forged."""
