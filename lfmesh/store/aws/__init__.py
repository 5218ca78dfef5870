"""Stores that speak AWS's protocols: DynamoDB and S3, from AWS or anything compatible. The only place of boto3.

Imported only where the configuration names one of them: boto3 costs a fifth of a second a process.
"""
