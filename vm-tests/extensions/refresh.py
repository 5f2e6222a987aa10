"""Runs in a guest: one boto3 session for as long as it takes to get other credentials from AWS_CONTAINER_CREDENTIALS_FULL_URI.

usage: refresh.py ENDPOINT LIMIT

Asks STS who it is, again and again, until the access key is another one; each answer must be good, and the credentials before
must not have ended yet. Prints as JSON the access keys, and how many seconds were left of the first. Ends with 1 after LIMIT
seconds with one key.
"""

import datetime
import json
import sys
import time

import boto3

endpoint, limit = sys.argv[1], float(sys.argv[2])
session = boto3.Session(region_name="us-east-1")
credentials = session.get_credentials()
sts = session.client("sts", endpoint_url=endpoint)
keys, end = [], time.monotonic() + limit
while len(keys) < 2:
    if time.monotonic() > end:
        raise SystemExit(f"the credentials stay the same for {limit} s: {keys}")
    expires = credentials._expiry_time
    sts.get_caller_identity()
    key = credentials.get_frozen_credentials().access_key
    if key not in keys:
        keys.append(key)
        left = (expires - datetime.datetime.now(datetime.timezone.utc)).total_seconds()
    # Not to have STS do all the work of this time; what is waited for is the other key.
    time.sleep(0.5)
print(json.dumps({"keys": keys, "left": left}))
