resource "aws_ecs_cluster" "this" {
  name = var.name
}

data "aws_ssm_parameter" "gpu_image" {
  name = "/aws/service/ecs/optimized-ami/amazon-linux-2023/gpu/recommended/image_id"
}

resource "aws_security_group" "machine" {
  name_prefix = "${var.name}-gpu-"
  description = "GPU machines: nobody comes in, they go out to S3, the registry and the servers"
  vpc_id      = var.vpc_id
}

resource "aws_vpc_security_group_egress_rule" "machine" {
  security_group_id = aws_security_group.machine.id
  ip_protocol       = "-1"
  cidr_ipv4         = "0.0.0.0/0"
  description       = "out"
}

resource "aws_launch_template" "machine" {
  name_prefix            = "${var.name}-gpu-"
  image_id               = data.aws_ssm_parameter.gpu_image.value
  update_default_version = true
  vpc_security_group_ids = [aws_security_group.machine.id]

  iam_instance_profile {
    arn = aws_iam_instance_profile.machine.arn
  }

  block_device_mappings {
    device_name = "/dev/xvda"
    ebs {
      volume_size = var.disk_gib
      volume_type = "gp3"
      encrypted   = true
    }
  }

  # Containers must not take the machine's role.
  metadata_options {
    http_tokens                 = "required"
    http_put_response_hop_limit = 1
  }

  user_data = base64encode(<<-EOT
    #!/bin/bash
    {
      echo ECS_CLUSTER=${aws_ecs_cluster.this.name}
      echo ECS_ENABLE_GPU_SUPPORT=true
      echo ECS_ENABLE_SPOT_INSTANCE_DRAINING=true
      echo ECS_CONTAINER_STOP_TIMEOUT=120s
      echo ECS_AWSVPC_BLOCK_IMDS=true
    } >> /etc/ecs/ecs.config
  EOT
  )
}

resource "aws_autoscaling_group" "machine" {
  name_prefix           = "${var.name}-gpu-"
  min_size              = 0
  max_size              = var.max_machines
  vpc_zone_identifier   = var.subnet_ids
  capacity_rebalance    = true
  protect_from_scale_in = true

  mixed_instances_policy {
    launch_template {
      launch_template_specification {
        launch_template_id = aws_launch_template.machine.id
        version            = "$Latest"
      }
      dynamic "override" {
        for_each = var.instance_types
        content {
          instance_type = override.value
        }
      }
    }
    instances_distribution {
      on_demand_percentage_above_base_capacity = 0
      spot_allocation_strategy                 = "price-capacity-optimized"
    }
  }

  tag {
    key                 = "AmazonECSManaged"
    value               = ""
    propagate_at_launch = true
  }

  lifecycle {
    ignore_changes = [desired_capacity] # ECS decides
  }
}

resource "aws_ecs_capacity_provider" "gpu_spot" {
  name = "${var.name}-gpu-spot"
  auto_scaling_group_provider {
    auto_scaling_group_arn         = aws_autoscaling_group.machine.arn
    managed_termination_protection = "ENABLED"
    managed_draining               = "ENABLED"
    managed_scaling {
      status          = "ENABLED"
      target_capacity = 100
    }
  }
}

resource "aws_ecs_cluster_capacity_providers" "this" {
  cluster_name       = aws_ecs_cluster.this.name
  capacity_providers = [aws_ecs_capacity_provider.gpu_spot.name]
}

resource "aws_budgets_budget" "this" {
  name         = var.name
  budget_type  = "COST"
  limit_amount = tostring(var.budget_usd)
  limit_unit   = "USD"
  time_unit    = "MONTHLY"

  cost_filter {
    name   = "TagKeyValue"
    values = ["user:Project$${var.name}"]
  }

  dynamic "notification" {
    for_each = [80, 100]
    content {
      comparison_operator        = "GREATER_THAN"
      notification_type          = "ACTUAL"
      threshold                  = notification.value
      threshold_type             = "PERCENTAGE"
      subscriber_email_addresses = [var.budget_email]
    }
  }
}
