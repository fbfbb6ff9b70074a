"""The S3 servers."""

from tests.s3_servers import bucket, moto_url, owner, real_bucket, rgw

__all__ = ["bucket", "moto_url", "owner", "real_bucket", "rgw"]
