output "exchange" {
  description = "For `compute.exchange` in a family's config."
  value       = "s3://${aws_s3_bucket.store.id}/exchange"
}

output "images" {
  description = "Where to push the two images."
  value       = { for name, repository in aws_ecr_repository.image : name => repository.repository_url }
}

output "deploy" {
  description = "Settings of the trainings pool: effnet deploy --type ecs, with each as --set NAME=VALUE."
  value = {
    image              = "${aws_ecr_repository.image["effnet-gpu"].repository_url}:TAG"
    cluster            = aws_ecs_cluster.this.name
    vpc_id             = var.vpc_id
    execution_role_arn = aws_iam_role.execution.arn
    task_role_arn      = aws_iam_role.task["trainer"].arn
    capacity_provider_strategy = jsonencode([
      { capacityProvider = aws_ecs_capacity_provider.gpu_spot.name, weight = 1, base = 0 }
    ])
  }
}

output "worker_policy" {
  description = "Attach it to whatever runs the worker."
  value       = aws_iam_policy.worker.arn
}
