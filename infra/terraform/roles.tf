# Least privilege, as infra/policies/*.json say; the same files are enforced by a real S3 server in tests.
locals {
  policies = {
    for name in ["sharder", "trainer", "janitor"] :
    name => templatefile("${path.module}/../policies/${name}.json", { bucket = aws_s3_bucket.store.id })
  }
  tasks_assume = jsonencode({
    Version = "2012-10-17"
    Statement = [{
      Effect    = "Allow"
      Principal = { Service = "ecs-tasks.amazonaws.com" }
      Action    = "sts:AssumeRole"
    }]
  })
}

resource "aws_iam_role" "task" {
  for_each           = local.policies
  name               = "${var.name}-${each.key}"
  assume_role_policy = local.tasks_assume
}

resource "aws_iam_role_policy" "task" {
  for_each = local.policies
  name     = "store"
  role     = aws_iam_role.task[each.key].id
  policy   = each.value
}

resource "aws_iam_role" "execution" {
  name               = "${var.name}-execution"
  assume_role_policy = local.tasks_assume
}

resource "aws_iam_role_policy_attachment" "execution" {
  role       = aws_iam_role.execution.name
  policy_arn = "arn:aws:iam::aws:policy/service-role/AmazonECSTaskExecutionRolePolicy"
}

resource "aws_iam_role_policy" "execution_secrets" {
  name = "secrets"
  role = aws_iam_role.execution.id
  policy = jsonencode({
    Version = "2012-10-17"
    Statement = [{
      Effect   = "Allow"
      Action   = "secretsmanager:GetSecretValue"
      Resource = "arn:aws:secretsmanager:${var.region}:${data.aws_caller_identity.this.account_id}:secret:${var.name}/*"
    }]
  })
}

resource "aws_iam_role" "machine" {
  name = "${var.name}-machine"
  assume_role_policy = jsonencode({
    Version = "2012-10-17"
    Statement = [{
      Effect    = "Allow"
      Principal = { Service = "ec2.amazonaws.com" }
      Action    = "sts:AssumeRole"
    }]
  })
}

resource "aws_iam_role_policy_attachment" "machine" {
  role       = aws_iam_role.machine.name
  policy_arn = "arn:aws:iam::aws:policy/service-role/AmazonEC2ContainerServiceforEC2Role"
}

resource "aws_iam_instance_profile" "machine" {
  name = "${var.name}-machine"
  role = aws_iam_role.machine.name
}

# Whoever runs `prefect worker start --pool effnet-gpu`: may start tasks of this cluster, and nothing else.
resource "aws_iam_policy" "worker" {
  name = "${var.name}-worker"
  policy = jsonencode({
    Version = "2012-10-17"
    Statement = [
      {
        Effect = "Allow"
        Action = [
          "ecs:RegisterTaskDefinition", "ecs:DeregisterTaskDefinition", "ecs:DescribeTaskDefinition",
          "ecs:ListTaskDefinitions", "ec2:DescribeVpcs", "ec2:DescribeSubnets", "logs:GetLogEvents",
        ]
        Resource = "*" # these calls take no resource
      },
      {
        Effect    = "Allow"
        Action    = ["ecs:RunTask", "ecs:StopTask", "ecs:DescribeTasks", "ecs:TagResource"]
        Resource  = "*"
        Condition = { ArnEquals = { "ecs:cluster" = aws_ecs_cluster.this.arn } }
      },
      {
        Effect   = "Allow"
        Action   = "iam:PassRole"
        Resource = [aws_iam_role.execution.arn, aws_iam_role.task["trainer"].arn]
      },
    ]
  })
}
