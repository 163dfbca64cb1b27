"""What a careful script does with boto3: list both sides, compare by size, copy with 64 threads."""
import concurrent.futures
import os
import sys

import boto3
from botocore.config import Config

source, destination, prefix = sys.argv[1:4]
client = boto3.client("s3", endpoint_url=os.environ["AWS_ENDPOINT_URL_S3"],
                      config=Config(max_pool_connections=64, s3={"addressing_style": "path"}))


def listing(bucket):
    sizes = {}
    for page in client.get_paginator("list_objects_v2").paginate(Bucket=bucket, Prefix=prefix):
        for item in page.get("Contents", []):
            sizes[item["Key"]] = item["Size"]
    return sizes


there = listing(destination)
todo = [key for key, size in listing(source).items() if there.get(key) != size]


def copy(key):
    client.copy_object(Bucket=destination, Key=key, CopySource={"Bucket": source, "Key": key})


with concurrent.futures.ThreadPoolExecutor(64) as pool:
    for done in concurrent.futures.as_completed([pool.submit(copy, key) for key in todo]):
        done.result()
