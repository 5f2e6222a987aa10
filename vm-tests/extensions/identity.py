"""Runs in a guest: asks STS who it is by boto3, with what AWS_CONTAINER_CREDENTIALS_FULL_URI gives and nothing else.

usage: identity.py ENDPOINT

Prints as JSON the ARN, how the credentials were found, and the access key.
"""

import json
import sys

import boto3

session = boto3.Session(region_name="us-east-1")
credentials = session.get_credentials()
sts = session.client("sts", endpoint_url=sys.argv[1])
arn = sts.get_caller_identity()["Arn"]
frozen = credentials.get_frozen_credentials()
print(json.dumps({"arn": arn, "method": credentials.method, "access_key": frozen.access_key}))
