# What a team on AWS needs beside the servers: bucket, registry, GPU machines on spot that go to zero, roles, a budget alarm.
terraform {
  required_version = ">= 1.6"
  required_providers {
    aws = {
      source  = "hashicorp/aws"
      version = "~> 6.0"
    }
  }
}

provider "aws" {
  region = var.region
  default_tags {
    tags = { Project = var.name }
  }
}

data "aws_caller_identity" "this" {}

locals {
  bucket_name = "${var.name}-${data.aws_caller_identity.this.account_id}"
}
