Å…3
Ñ¡
^
AssignVariableOp
resource
value"dtype"