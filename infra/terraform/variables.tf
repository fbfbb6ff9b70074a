variable "name" {
  description = "Prefix of everything that is made."
  type        = string
  default     = "effnet"
}

variable "region" {
  description = "AWS region."
  type        = string
  default     = "us-east-1"
}

variable "vpc_id" {
  description = "VPC of the GPU machines."
  type        = string
}

variable "subnet_ids" {
  description = "Private subnets with a way out, in as many zones as possible: spot capacity differs between them."
  type        = list(string)
}

variable "instance_types" {
  description = "GPU machines to take on spot, any of them."
  type        = list(string)
  default     = ["g6.xlarge", "g6.2xlarge", "g5.xlarge", "g5.2xlarge"]
}

variable "max_machines" {
  description = "GPU machines at most; there are none while nothing is to be done."
  type        = number
  default     = 4
}

variable "disk_gib" {
  description = "Disk of a GPU machine: shards that are fetched, decoded images, checkpoints."
  type        = number
  default     = 500
}

variable "budget_usd" {
  description = "Monthly costs that an alarm is sent at (80 % and 100 %)."
  type        = number
  default     = 500
}

variable "budget_email" {
  description = "Who gets the alarm."
  type        = string
}

variable "checkpoint_days" {
  description = "Days after which checkpoints of runs are removed; weights and results stay."
  type        = number
  default     = 30
}
