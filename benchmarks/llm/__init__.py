"""Language models here and in other engines: tokens a second of CPU, and latency under load."""
